"""From a source to pairs, with every row that could not be used counted by reason."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.config.recipe import DataConfig
from study.data.files import read_rows, source_name
from study.data.forms import Form, Unusable, columns_of, form_of, recognise, to_pair
from study.data.pairs import Pair
from study.errors import DataError

SHOWN_ROWS = 8
"""Row numbers that a message lists per reason."""


@dataclass(frozen=True, slots=True)
class LoadedPairs:
    """The usable pairs of a source, and what became of its other rows."""

    pairs: tuple[Pair, ...]
    form: str
    n_rows: int
    dropped: Mapping[str, tuple[int, ...]]
    """Reason -> numbers of the rows dropped for it, counted from 1."""


def load_pairs(config: DataConfig) -> LoadedPairs:
    """Read every usable pair of a source and count the rows that are not.

    Raises:
        DataError: the source cannot be read, its form is not known, or more
            than ``max_dropped_share`` of its rows cannot be used.
    """
    if config.name == "toy":
        from study.data.toy import toy_pairs

        toy = tuple(toy_pairs(seed=config.seed))
        return LoadedPairs(toy, form="toy", n_rows=len(toy), dropped={})
    rows = read_rows(config)
    if not rows:
        raise DataError(f"{config.name} has no rows; name a source that has some")
    form = recognise(rows, config.name)
    loaded = _convert(rows, form, source_name(config.name))
    _check_dropped(loaded, config)
    return loaded


def dropped_lines(dropped: Mapping[str, Sequence[int]]) -> list[str]:
    """Describe dropped rows, one line per reason, the most frequent first."""
    return [
        f"{reason}: {len(rows)} (row{'s' * (len(rows) > 1)} "
        f"{', '.join(map(str, rows[:SHOWN_ROWS]))}{', …' * (len(rows) > SHOWN_ROWS)})"
        for reason, rows in sorted(dropped.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _convert(rows: Sequence[Any], form: "Form", source: str) -> LoadedPairs:
    pairs: dict[str, Pair] = {}
    dropped: dict[str, list[int]] = defaultdict(list)
    columns = columns_of(rows)
    for number, row in enumerate(rows, start=1):
        try:
            other = form_of(row, columns)
            if other and other.convert is not form.convert and not form.begins_as:
                raise Unusable(f"a row of another form: {other.name}")  # noqa: TRY301
            pair = to_pair(row, form, source)
            if pair.example_id in pairs:
                raise Unusable("duplicate pair")  # noqa: TRY301 - one place counts them all
            pairs[pair.example_id] = pair
        except Unusable as reason:
            dropped[str(reason)].append(number)
    counts = {reason: tuple(numbers) for reason, numbers in dropped.items()}
    return LoadedPairs(tuple(pairs.values()), form=form.name, n_rows=len(rows), dropped=counts)


def _check_dropped(loaded: LoadedPairs, config: DataConfig) -> None:
    n_dropped = loaded.n_rows - len(loaded.pairs)
    if loaded.pairs and n_dropped <= config.max_dropped_share * loaded.n_rows:
        return
    reasons = "".join(f"\n  {line}" for line in dropped_lines(loaded.dropped))
    raise DataError(
        f"{n_dropped} of {loaded.n_rows} rows of {config.name}, read as {loaded.form}, cannot be "
        f"used; data.max_dropped_share allows {config.max_dropped_share:.0%}:{reasons}\n"
        "mend these rows, or allow more with --set data.max_dropped_share=SHARE"
    )
