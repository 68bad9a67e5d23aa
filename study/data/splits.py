"""Train, validation and test pairs that share no prompt."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from study.config.canonical import digest
from study.config.recipe import DataConfig
from study.data.pairs import Pair
from study.errors import DataError


@dataclass(frozen=True, slots=True)
class Splits:
    """Three sets of pairs that share no prompt cluster and no example."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]

    def __post_init__(self) -> None:
        """Refuse splits that overlap."""
        for first, second in combinations(("train", "validation", "test"), 2):
            for field in ("cluster_id", "example_id"):
                a, b = (
                    {getattr(pair, field) for pair in getattr(self, name)}
                    for name in (first, second)
                )
                if a & b:
                    raise DataError(
                        f"{first} and {second} share {len(a & b)} values of {field}, e.g. "
                        f"{min(a & b)}; split the pairs by prompt cluster"
                    )


def split_pairs(pairs: Iterable[Pair], config: DataConfig) -> Splits:
    """Deal whole prompt clusters to test, validation and train, in this order.

    The order of clusters depends on the seed and their ids alone. What the last
    cluster of a split holds beyond the size asked for is left out of all.

    Raises:
        DataError: there are too few pairs for the sizes asked for.
    """
    pairs = tuple(pairs)
    clusters: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        clusters[pair.cluster_id].append(pair)
    order = sorted(clusters, key=lambda name: (digest([config.seed, name]), name))
    queue = [sorted(clusters[name], key=lambda pair: pair.example_id) for name in reversed(order)]
    test = _deal(queue, config.test_pairs)
    validation = _deal(queue, config.validation_pairs)
    train = _deal(queue, config.train_pairs or len(pairs))
    if (
        len(test) < config.test_pairs
        or len(validation) < config.validation_pairs
        or len(train) < max(config.train_pairs, 1)
    ):
        raise DataError(
            f"{config.name} has {len(pairs)} usable pairs in {len(clusters)} prompt clusters, "
            f"too few for {config.test_pairs} test, {config.validation_pairs} validation and "
            f"{config.train_pairs or 'at least 1'} train pairs (prompts that open with the "
            "same question are one cluster and stay together); ask for fewer with "
            "--set data.train_pairs=N (0 is all the rest), --set data.validation_pairs=N or "
            "--set data.test_pairs=N"
        )
    return Splits(train, validation, test)


def _deal(queue: list[list[Pair]], n_pairs: int) -> tuple[Pair, ...]:
    taken: list[Pair] = []
    while queue and len(taken) < n_pairs:
        taken += queue.pop()
    return tuple(taken[:n_pairs])
