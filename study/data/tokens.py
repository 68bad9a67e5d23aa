"""From messages to token ids: chat template, BOS, end of turn, truncation.

A pair becomes three runs of ids, prompt, chosen and rejected, tokenised apart,
so that both answers follow exactly the same prompt. An answer ends with the
template's end-of-turn token, which is also the token that ends generation.
Chat tokens come from the template alone: where a message spells one, such as
``<|im_end|>``, it is tokenised as any other text, so that no row forges a turn.
"""

import functools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from study.data.pairs import Message, Pair
from study.engine.encoded import Encoded
from study.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:  # annotations are evaluated, transformers is heavy
    Tokenizer = Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


PAD_TOKEN = "<|pad|>"


BREAK = "\ufdd0\ufdd1"
"""Noncharacters put into special tokens that a message spells, until its text is tokenised."""


def prepare_tokenizer(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Give a base model's tokenizer what chat needs; return ids to be trained.

    Without a chat template it gets ChatML, whose two tokens are trained whether
    they are new or were only reserved. Padding gets a token of its own, never
    EOS, which would be hidden from the loss.
    """
    trained: tuple[int, ...] = ()
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHATML
        tokenizer.add_special_tokens(
            {"additional_special_tokens": list(CHATML_TOKENS)}, replace_extra_special_tokens=False
        )
        trained = tuple(tokenizer.get_vocab()[token] for token in CHATML_TOKENS)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.padding_side = "left"
    return trained


def encode(
    pair: Pair, tokenizer: Tokenizer, *, max_prompt_tokens: int, max_length_tokens: int
) -> Encoded:
    """Tokenise one pair; each side is cut by itself, the prompt from the left.

    Raises:
        DataError: an answer holds no token, or the two sides become equal.
    """
    prompt_ids = _cut_prompt(encode_prompt(pair.prompt, tokenizer), tokenizer, max_prompt_tokens)
    room, end = max_length_tokens - len(prompt_ids), end_of_turn(tokenizer)
    chosen_ids, rejected_ids = (
        _encode_answer(pair.prompt, answer, tokenizer, end)[:room]
        for answer in (pair.chosen, pair.rejected)
    )
    if not chosen_ids or not rejected_ids:
        raise DataError(f"pair {pair.example_id}: an answer holds no tokens")
    if chosen_ids == rejected_ids:
        raise DataError(
            f"pair {pair.example_id}: both answers are the same {room} tokens after truncation"
        )
    return Encoded(
        pair.example_id, pair.cluster_id, pair.source, prompt_ids, chosen_ids, rejected_ids
    )


def encode_prompt(prompt: Iterable[Message], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids after which the model is to answer; BOS stands once at most."""
    ids = _ids(tokenizer, _render(tokenizer, prompt, generation=True))
    bos = tokenizer.bos_token_id
    starts_with_bos = tokenizer("").get("input_ids", [])[:1] == [bos]
    if bos is not None and starts_with_bos and ids[:1] != (bos,):
        return (bos, *ids)
    return ids


@functools.lru_cache(maxsize=8)
def end_of_turn(tokenizer: Tokenizer) -> int:
    """Return the id of the token that ends an answer under the chat template.

    Raises:
        ModelError: the template ends answers with no special token, and the
            tokenizer has no EOS token either.
    """
    question, answer = Message("user", "a"), Message("assistant", "b")
    suffix = _suffix(tokenizer, [question], [answer])
    special = [token for token in _ids(tokenizer, suffix) if token in tokenizer.all_special_ids]
    if special:
        return special[0]
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the chat template ends an answer with no special token and the tokenizer has no "
            "EOS token; give the tokenizer one of the two"
        )
    return int(tokenizer.eos_token_id)


def truncation_counts(
    whole: Iterable[Encoded], *, max_prompt_tokens: int, max_length_tokens: int
) -> dict[str, int]:
    """Count how many untruncated prompts and answers the length limits cut."""
    counts = {"prompt": 0, "chosen": 0, "rejected": 0}
    for pair in whole:
        n_prompt = len(pair.prompt_ids)
        room = max_length_tokens - min(n_prompt, max_prompt_tokens)
        counts["prompt"] += n_prompt > max_prompt_tokens
        counts["chosen"] += len(pair.chosen_ids) > room
        counts["rejected"] += len(pair.rejected_ids) > room
    return counts


def spells_special_token(pair: Pair, tokenizer: Tokenizer) -> bool:
    """Tell whether a message spells a special token, which is then read as text."""
    spelled = _special_tokens(tokenizer, len(tokenizer))
    messages = (*pair.prompt, *pair.chosen, *pair.rejected)
    return any(spelled.search(message.content) for message in messages)


def _cut_prompt(ids: tuple[int, ...], tokenizer: Tokenizer, limit: int) -> tuple[int, ...]:
    """Drop a long prompt's oldest tokens, but keep its BOS."""
    if len(ids) <= limit:
        return ids
    kept = 1 if ids[0] == tokenizer.bos_token_id else 0
    return (*ids[:kept], *ids[len(ids) - limit + kept :])


def _encode_answer(
    prompt: tuple[Message, ...], answer: tuple[Message, ...], tokenizer: Tokenizer, end: int
) -> tuple[int, ...]:
    """Return the answer's ids up to its last end-of-turn token, which is kept."""
    ids = _ids(tokenizer, _suffix(tokenizer, prompt, answer))
    if end in ids:
        return ids[: len(ids) - ids[::-1].index(end)]
    return (*ids, end)


def _suffix(tokenizer: Tokenizer, prompt: Iterable[Message], answer: Iterable[Message]) -> str:
    """Return what the template appends to a rendered prompt for an answer."""
    before = _render(tokenizer, prompt, generation=True)
    whole = _render(tokenizer, [*prompt, *answer], generation=False)
    if not whole.startswith(before):
        raise ModelError(
            "the chat template renders a prompt differently once an answer follows it; "
            "prompt and answer cannot be told apart. Use a template whose generation prompt "
            "is a prefix of the whole conversation"
        )
    return whole[len(before) :]


def _render(tokenizer: Tokenizer, messages: Iterable[Message], *, generation: bool) -> str:
    """Render turns as text; special tokens that a message spells get a `BREAK`.

    Raises:
        DataError: the template does not take these turns.
    """
    from jinja2 import TemplateError

    spelled = _special_tokens(tokenizer, len(tokenizer))
    turns = [
        {
            "role": message.role,
            "content": spelled.sub(lambda m: m[0][0] + BREAK + m[0][1:], message.content),
        }
        for message in messages
    ]
    try:
        text = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generation
        )
    except TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise DataError(f"the chat template refuses the turns {roles}: {error}") from error
    return str(text)


@functools.lru_cache(maxsize=8)
def _special_tokens(tokenizer: Tokenizer, n_tokens: int) -> re.Pattern[str]:  # noqa: ARG001
    """Return what matches any special token as text; asked anew when tokens are added."""
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= set(tokenizer.all_special_tokens)
    longest_first = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Tokenise rendered text; the stretches between special tokens apart where one was spelled."""
    if BREAK not in text:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids: list[int] = []
    vocabulary = tokenizer.get_vocab()
    special = _special_tokens(tokenizer, len(tokenizer))
    for stretch in re.split(f"({special.pattern})", text):
        if special.fullmatch(stretch):
            ids.append(vocabulary[stretch])
        elif stretch:
            plain = stretch.replace(BREAK, "")
            ids += tokenizer(plain, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
    return tuple(ids)
