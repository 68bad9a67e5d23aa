"""Which pairs can be used once they are tokens, and why the others cannot: one rule for all."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from study.config.recipe import DataConfig
from study.data.pairs import Pair
from study.data.tokens import USELESS, cut, encode_whole
from study.engine.encoded import Encoded
from study.errors import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPairs:
    """The pairs of one split that can be used, and what was wrong with the others."""

    encoded: list[Encoded]
    left_out: list[RowError]

    def reasons(self) -> dict[str, int]:
        """Count the pairs that are left out, by reason."""
        return dict(Counter(error.reason for error in self.left_out))

    def refusal(self, config: DataConfig) -> str:
        """Say why too few pairs are left, each reason with an example and its remedy; else ""."""
        n_pairs = len(self.encoded) + len(self.left_out)
        if self.encoded and len(self.left_out) <= config.max_dropped_share * n_pairs:
            return ""
        lines = []
        for reason, n in Counter(self.reasons()).most_common():
            first = next(error for error in self.left_out if error.reason == reason)
            remedy = (
                f"raise data.max_length_tokens, now {config.max_length_tokens}"
                if reason == USELESS
                else "mend these rows, or name another template with model.chat_template"
            )
            lines.append(f"\n  {reason}: {n}, e.g. {first}; {remedy}")
        return (
            f"{len(self.left_out)} of {n_pairs} pairs cannot be used:{''.join(lines)}\n"
            "or raise data.max_dropped_share"
        )


def encode_all(pairs: Iterable[Pair], tokenizer: Tokenizer) -> Iterator[Encoded | RowError]:
    """Encode pairs at full length; one that cannot be is its error."""
    for pair in pairs:
        try:
            yield encode_whole(pair, tokenizer)
        except RowError as error:
            yield error


def cut_all(
    wholes: Iterable[Encoded | RowError], tokenizer: Tokenizer, config: DataConfig
) -> EncodedPairs:
    """Cut pairs to the recipe's limits, and sort out those that cannot be used."""
    encoded: list[Encoded] = []
    left_out: list[RowError] = []
    for whole in wholes:
        try:
            if isinstance(whole, RowError):
                raise whole
            encoded.append(
                cut(
                    whole,
                    tokenizer,
                    max_prompt_tokens=config.max_prompt_tokens,
                    max_length_tokens=config.max_length_tokens,
                )
            )
        except RowError as error:
            left_out.append(error)
    return EncodedPairs(encoded=encoded, left_out=left_out)
