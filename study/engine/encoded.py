"""What the engine takes: a pair as token ids."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Encoded:
    """One pair as token ids."""

    example_id: str
    cluster_id: str
    source: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Distinct tokens of the pair, the prompt counted once."""
        return len(self.prompt_ids) + len(self.chosen_ids) + len(self.rejected_ids)
