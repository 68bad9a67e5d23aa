"""What the engine takes: a pair as token ids."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self


@dataclass(frozen=True, slots=True)
class Encoded:
    """One pair as token ids, of 2 or 4 bytes each: a study may hold millions of them.

    >>> pair = Encoded.of("p1", (5, 6, 7), (8, 2), (9, 2))
    >>> pair.chosen_ids, pair.n_rejected, pair.n_tokens
    ((8, 2), 2, 7)
    """

    example_id: str
    cluster_id: str
    source: str
    ids: "array[int]"
    """Those of the prompt, the chosen and the rejected answer, one behind the other."""
    n_prompt: int
    n_chosen: int

    @classmethod
    def of(
        cls,
        example_id: str,
        prompt: Sequence[int],
        chosen: Sequence[int],
        rejected: Sequence[int],
        *,
        cluster_id: str = "",
        source: str = "",
    ) -> Self:
        """Build a pair from the ids of its three parts."""
        ids = narrow(chain(prompt, chosen, rejected))
        return cls(example_id, cluster_id, source, ids, len(prompt), len(chosen))

    @property
    def n_tokens(self) -> int:
        """Distinct tokens of the pair, the prompt counted once."""
        return len(self.ids)

    @property
    def n_rejected(self) -> int:
        """Tokens of the rejected answer."""
        return len(self.ids) - self.n_prompt - self.n_chosen

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's ids."""
        return tuple(self.ids[: self.n_prompt])

    @property
    def chosen_ids(self) -> tuple[int, ...]:
        """The chosen answer's ids."""
        return tuple(self.ids[self.n_prompt : self.n_prompt + self.n_chosen])

    @property
    def rejected_ids(self) -> tuple[int, ...]:
        """The rejected answer's ids."""
        return tuple(self.ids[self.n_prompt + self.n_chosen :])

    def with_ids(
        self, prompt: Sequence[int], chosen: Sequence[int], rejected: Sequence[int]
    ) -> Self:
        """Return the pair with other ids."""
        named = {"cluster_id": self.cluster_id, "source": self.source}
        return self.of(self.example_id, prompt, chosen, rejected, **named)


def narrow(ids: Iterable[int]) -> "array[int]":
    """Return ids in 2 bytes each where all are below 65,536, else in 4.

    >>> narrow([65_535]).itemsize, narrow([1, 65_536]).itemsize
    (2, 4)
    """
    ids = array("i", ids)
    try:
        return array("H", ids)
    except OverflowError:
        return ids
