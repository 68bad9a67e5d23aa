"""From messages to token ids: chat template, BOS, end of turn, truncation.

A pair becomes three runs of ids, prompt, chosen and rejected, tokenised apart,
so that both answers follow exactly the same prompt. An answer ends with the
template's end-of-turn token, which is also the token that ends generation.
Chat tokens come from the template alone: where a message spells one, such as
``<|im_end|>``, it is tokenised as any other text, so that no row forges a turn.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from study.config.recipe import TEMPLATE_DATE
from study.data.pairs import Message, Pair
from study.data.templates import (
    BREAK,
    CHATML,
    CUT,
    REASONING,
    render_answer,
    render_prompt,
    settle,
    split_reasoning,
    turn_of,
)
from study.engine.encoded import Encoded
from study.errors import ModelError, RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:  # annotations are evaluated, transformers is heavy
    Tokenizer = Any

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


PAD_TOKEN = "<|pad|>"


USELESS = "useless after truncation"


def prepare_tokenizer(
    tokenizer: Tokenizer,
    *,
    template: str | None = None,
    variables: Mapping[str, Any] | None = None,
    day: str = TEMPLATE_DATE,
) -> tuple[int, ...]:
    """Give a tokenizer what chat needs; return ids to be trained.

    Without a chat template it gets ChatML, whose two tokens are trained whether
    they are new or were only reserved. Padding gets a token of its own, never
    EOS, which would be hidden from the loss.

    Args:
        tokenizer: changed in place.
        template: Jinja, in place of the tokenizer's own.
        variables: written into the template.
        day: the date that the template prints for today's, YYYY-MM-DD.

    Raises:
        ModelError: the tokenizer has several templates and none by default.
    """
    trained: tuple[int, ...] = ()
    own = tokenizer.chat_template
    if isinstance(own, dict) and template is None:
        if "default" not in own:
            raise ModelError(
                f"the tokenizer has the chat templates {', '.join(own)} and none by default; "
                "write one of them to a file and name it with model.chat_template"
            )
        own = own["default"]
    chosen = template or own or CHATML
    if chosen != own and chosen == CHATML:
        tokenizer.add_special_tokens(
            {"additional_special_tokens": list(CHATML_TOKENS)}, replace_extra_special_tokens=False
        )
        trained = tuple(tokenizer.get_vocab()[token] for token in CHATML_TOKENS)
    tokenizer.chat_template = settle(chosen, variables or {}, day)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    tokenizer.padding_side = "left"
    return trained


def encode(
    pair: Pair, tokenizer: Tokenizer, *, max_prompt_tokens: int, max_length_tokens: int
) -> Encoded:
    """Tokenise one pair; each side is cut by itself, the prompt from the left.

    Raises:
        RowError: the template cannot write the pair, an answer holds no token,
            or truncation makes the two sides equal.
    """
    return cut(
        encode_whole(pair, tokenizer),
        tokenizer,
        max_prompt_tokens=max_prompt_tokens,
        max_length_tokens=max_length_tokens,
    )


def encode_whole(pair: Pair, tokenizer: Tokenizer) -> Encoded:
    """Tokenise one pair at its full length.

    Raises:
        RowError: the template cannot write the pair, or both answers are the same tokens.
    """
    texts = render(pair, tokenizer)
    return whole_of(pair, tokenizer, [ids_of(tokenizer, text) for text in texts])


def render(pair: Pair, tokenizer: Tokenizer) -> tuple[str, str, str]:
    """Write prompt, chosen and rejected answer as the chat template does.

    Raises:
        RowError: the template cannot write the pair.
    """
    try:
        prompt = render_prompt(tokenizer, pair.prompt)
        chosen, rejected = (
            render_answer(tokenizer, pair.prompt, prompt, answer)
            for answer in (pair.chosen, pair.rejected)
        )
    except RowError as error:
        raise RowError(error.reason, f"pair {pair.example_id}: {error}") from error
    return prompt, chosen, rejected


def whole_of(pair: Pair, tokenizer: Tokenizer, ids: Sequence[tuple[int, ...]]) -> Encoded:
    """Return a pair at its full length from the ids of its rendered texts.

    Raises:
        RowError: both answers are the same tokens.
    """
    prompt, *rest = ids
    answers = [_answer_ids(tokenizer, one) for one in rest]
    if answers[0] == answers[1]:
        raise RowError(
            "equal once tokenised",
            f"pair {pair.example_id}: both answers are the same {len(answers[0])} tokens",
        )
    return Encoded.of(
        pair.example_id,
        _prompt_ids(tokenizer, prompt),
        *answers,
        cluster_id=pair.cluster_id,
        source=pair.source,
    )


def cut(
    whole: Encoded, tokenizer: Tokenizer, *, max_prompt_tokens: int, max_length_tokens: int
) -> Encoded:
    """Cut one pair to the limits.

    Raises:
        RowError: an answer holds no token, or both are then the same.
    """
    if whole.n_prompt <= max_prompt_tokens and (
        whole.n_prompt + max(whole.n_chosen, whole.n_rejected) <= max_length_tokens
    ):
        return whole
    prompt_ids = _cut_prompt(whole.prompt_ids, tokenizer, max_prompt_tokens)
    room = max_length_tokens - len(prompt_ids)
    chosen_ids, rejected_ids = whole.chosen_ids[:room], whole.rejected_ids[:room]
    if not chosen_ids or not rejected_ids:
        raise RowError(USELESS, f"pair {whole.example_id}: an answer holds no tokens")
    if chosen_ids == rejected_ids:
        raise RowError(
            USELESS,
            f"pair {whole.example_id}: both answers are the same {len(chosen_ids)} tokens after "
            "truncation",
        )
    return whole.with_ids(prompt_ids, chosen_ids, rejected_ids)


def encode_prompt(prompt: Iterable[Message], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids after which the model is to answer; BOS stands once at most.

    Raises:
        RowError: the template cannot write these turns.
    """
    return _prompt_ids(tokenizer, ids_of(tokenizer, render_prompt(tokenizer, prompt)))


def end_of_turn(tokenizer: Tokenizer) -> int:
    """Return the id of the token that ends an answer under the chat template.

    Raises:
        ModelError: the template cannot be used, or nothing ends its answers.
    """
    return turn_of(tokenizer).end_id


def answer_text(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, str]:
    """Split a generated answer's text into its reasoning and what is scored.

    Reasoning is what stands in tags of it, and what precedes the channel in
    which the template writes answers. An answer that ended before its reasoning
    did says nothing.
    """
    turn = turn_of(tokenizer)
    plain = str(tokenizer.decode(list(ids), skip_special_tokens=True))
    whole = str(tokenizer.decode(list(ids)))
    reasoning, answer = split_reasoning(whole, is_open=turn.is_open)
    channel = turn.opening.strip()
    if channel and not any(tag in channel for pair in REASONING for tag in pair):
        marks = turn.special.findall(channel)
        before, found, after = answer.rpartition(channel)
        if found or any(mark in answer for mark in marks):
            reasoning, answer = reasoning + (before if found else answer), after * bool(found)
    if not reasoning and answer == whole:
        return "", plain
    return reasoning.strip(), turn.special.sub("", answer)


def fingerprint_tokens(encoded: Iterable[Encoded]) -> str:
    """Return a SHA-256 of what is trained and scored: ids, and where answers begin and end."""
    found = hashlib.sha256()
    for pair in encoded:
        found.update(pair.example_id.encode())
        for ids in (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids):
            found.update(len(ids).to_bytes(8, "little"))
            found.update(array("q", ids).tobytes())
    return found.hexdigest()


def truncation_counts(
    whole: Iterable[Encoded], *, max_prompt_tokens: int, max_length_tokens: int
) -> dict[str, int]:
    """Count how many untruncated prompts and answers the length limits cut."""
    counts = {"prompt": 0, "chosen": 0, "rejected": 0}
    for pair in whole:
        room = max_length_tokens - min(pair.n_prompt, max_prompt_tokens)
        counts["prompt"] += pair.n_prompt > max_prompt_tokens
        counts["chosen"] += pair.n_chosen > room
        counts["rejected"] += pair.n_rejected > room
    return counts


def spells_special_token(pair: Pair, tokenizer: Tokenizer) -> bool:
    """Tell whether a message spells a special token, which is then read as text."""
    spelled = turn_of(tokenizer).special
    messages = (*pair.prompt, *pair.chosen, *pair.rejected)
    return any(spelled.search(message.content) for message in messages)


def _cut_prompt(ids: tuple[int, ...], tokenizer: Tokenizer, limit: int) -> tuple[int, ...]:
    """Drop a long prompt's oldest tokens, but keep its BOS."""
    if len(ids) <= limit:
        return ids
    kept = 1 if ids[0] == tokenizer.bos_token_id else 0
    return (*ids[:kept], *ids[len(ids) - limit + kept :])


def _prompt_ids(tokenizer: Tokenizer, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Put BOS before a prompt whose tokenizer wants it and whose template does not write it."""
    bos = turn_of(tokenizer).bos_id
    return ids if bos is None or ids[:1] == (bos,) else (bos, *ids)


def _answer_ids(tokenizer: Tokenizer, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Return the answer's ids up to its last end-of-turn token, which is kept."""
    turn = turn_of(tokenizer)
    if turn.is_closed and turn.end_id in ids:
        return ids[: len(ids) - ids[::-1].index(turn.end_id)]
    return (*ids, turn.end_id)


def is_plain(text: str) -> bool:
    """Tell whether a rendered text spells no special token, so that it is tokenised in one go."""
    return BREAK not in text and CUT not in text


def ids_of(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """Tokenise rendered text; the stretches between special tokens apart where one was spelled."""
    if is_plain(text):
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids: list[int] = []
    vocabulary = tokenizer.get_vocab()
    special = turn_of(tokenizer).special
    for stretch in re.split(f"({special.pattern})", text):
        if special.fullmatch(stretch):
            ids.append(vocabulary[stretch])
            continue
        for piece in stretch.replace(BREAK, "").split(CUT):
            ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
    return tuple(ids)
