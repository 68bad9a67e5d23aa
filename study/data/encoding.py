"""Which pairs can be used once they are tokens, and why the others cannot: one rule for all."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from study.config.recipe import DataConfig
from study.data.kept import kept
from study.data.pairs import Pair
from study.data.tokens import USELESS, cut, ids_of, is_plain, render, whole_of
from study.engine.encoded import Encoded
from study.errors import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

T = TypeVar("T")

AT_ONCE = 64
"""Pairs whose texts the tokenizer gets in one call; what it makes of a text takes some
hundred bytes a token until the ids are taken from it."""

PARALLEL = "TOKENIZERS_PARALLELISM"


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


def encode_all(pairs: Sequence[Pair], tokenizer: Tokenizer) -> Iterator[Encoded | RowError]:
    """Encode pairs at full length, in their order; one that cannot be is its error.

    Many pairs are kept in the user's cache by their content, see `study.data.kept`. Do
    not tokenise with this tokenizer before the last one is told: a thread uses it.
    """
    return kept(pairs, tokenizer, _encode)


def _encode(pairs: Sequence[Pair], tokenizer: Tokenizer) -> Iterator[Encoded | RowError]:
    """Give texts to the tokenizer by the thousand, which shares them among the cores.

    Meanwhile the template, which is Python's, writes the next thousand.
    """
    with ThreadPoolExecutor(max_workers=1) as beside:
        waiting: Iterator[Encoded | RowError] = iter(())
        for start in range(0, len(pairs), AT_ONCE):
            part = pairs[start : start + AT_ONCE]
            rendered = [_or_error(render, pair, tokenizer) for pair in part]
            texts = [text for one in rendered if not isinstance(one, RowError) for text in one]
            ids = beside.submit(_ids_of_all, tokenizer, texts)
            yield from waiting
            waiting = _wholes(part, rendered, ids, tokenizer)
        yield from waiting


def _wholes(
    pairs: Sequence[Pair],
    rendered: Sequence[tuple[str, str, str] | RowError],
    ids: Future[Iterator[Sequence[int]]],
    tokenizer: Tokenizer,
) -> Iterator[Encoded | RowError]:
    in_order = ids.result()
    for pair, one in zip(pairs, rendered, strict=True):
        if isinstance(one, RowError):
            yield one
            continue
        yield _or_error(whole_of, pair, tokenizer, [tuple(next(in_order)) for _ in one])


def _ids_of_all(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[Sequence[int]]:
    """Tokenise texts, on all cores where there are many; only one thread may do so at a time."""
    plain = [text for text in texts if is_plain(text)]
    in_one_go = []
    if plain:
        with _on_all_cores(is_worth_it=len(plain) >= AT_ONCE):
            in_one_go = tokenizer(
                plain,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
    found = iter(in_one_go)
    return iter([next(found) if is_plain(text) else ids_of(tokenizer, text) for text in texts])


@contextlib.contextmanager
def _on_all_cores(*, is_worth_it: bool) -> Iterator[None]:
    """Let the tokenizer use threads while the block runs, which `quieten` turns off.

    A process that forks afterwards would be warned of them; ours never do.
    """
    before = os.environ.get(PARALLEL)
    if is_worth_it:
        os.environ[PARALLEL] = "true"
    try:
        yield
    finally:
        if is_worth_it and before is None:
            del os.environ[PARALLEL]
        elif is_worth_it:
            os.environ[PARALLEL] = str(before)


def _or_error(function: Callable[..., T], *given: Any) -> T | RowError:
    try:
        return function(*given)
    except RowError as error:
        return error


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
