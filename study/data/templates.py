"""Chat templates: which one, with which variables and date, and how it writes a turn.

What a template does is found by rendering short dialogues with it, never by
its name. Its variables and its date are written into the template itself, so
that a tokenizer carries all that its prompts depend on.

The templates that models ship are read through transformers' sandbox; what
they do in practice was learned from those that TRL ships (trl/chat_templates).
"""

import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.data.instructions import INSTRUCTIONS
from study.data.pairs import Message
from study.data.tools import TOOLS, described, require_written
from study.errors import ModelError, RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
else:
    Tokenizer = Any

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BREAK, CUT = "\ufdd0\ufdd1", "\ufdd0\ufdd2"
"""Noncharacters put into added tokens that a message spells, until its text is tokenised."""

REASONING = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
)
"""What opens and closes an answer's reasoning: Qwen, DeepSeek and others;
Seed-OSS; Magistral; Command A; Apertus; Gemma 4."""

CODES = (*"aAbBdmyYjHIMSpUwWF", "-d", "-m")
"""What may stand in a template's date format."""

MARKS = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|turn>|\[INST\]|<\|START_OF_TURN_TOKEN\|>"
    r"|<\|start\|>(?:system|user)|<\|(?:system|user|assistant)\|>|<｜User｜>|<<SYS>>"
    r"|^### (?:Instruction|Human|User):|^(?:GPT4 Correct User|USER): ",
    re.MULTILINE,
)
"""What prompts have that were rendered with some template before."""

REFUSED, CHANGED = "refused by the chat template", "changed by the chat template"
OTHER_TEMPLATE = 'name another template with model.chat_template, a file or "chatml"'

QUESTION, ANSWER, NEXT = "Quetzal", "Amaranth", "Umbrella"
"""Probes: words that no template writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """How a chat template writes the assistant's turn."""

    end_id: int
    """Token that closes the turn: the first added token that follows the answer."""
    is_closed: bool
    """Whether a dialogue that ends with an answer ends with that token. GLM-4's
    does not: there the next turn's first token closes it."""
    cut: str
    """End of the generation prompt that an answer takes back, e.g. DeepSeek's ``<think>``."""
    header: str
    """What opens the assistant's turn where the template has no generation prompt."""
    opening: str
    """What the template writes between prompt and answer, e.g. gpt-oss's channel."""
    is_open: bool
    """Whether a prompt ends inside a block of reasoning, as Qwen3.5's may."""
    in_parts: bool
    """Whether the template reads a turn's content as a list of parts alone."""
    special: re.Pattern[str]
    """Any token that only the template may write, longest first."""
    plain: frozenset[str]
    """Those of them that the tokenizer does not mark as special."""
    bos_id: int | None
    """Token that the tokenizer itself puts before a text."""


def read_template(name: str) -> str | None:
    """Return the template that ``model.chat_template`` names; None for the model's own.

    Raises:
        ModelError: it names neither ``chatml`` nor a file that can be read.
    """
    if not name:
        return None
    if name in (shipped := {"chatml": CHATML, "instructions": INSTRUCTIONS}):
        return shipped[name]
    try:
        return Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"model.chat_template is {name!r}, which cannot be read from {Path.cwd()} ({error}); "
            'name a Jinja template\'s file, "chatml", "instructions", or "" for the model\'s own'
        ) from error


def settle(template: str, variables: Mapping[str, Any], day: str) -> str:
    """Write variables, and the date where it asks for one, into a template.

    transformers gives templates today's date, by which results would depend on
    the day. Nothing is added that the template does not need.
    """
    added = "".join(
        f"{{% set {name} = {json.dumps(value, ensure_ascii=False)} %}}"
        for name, value in variables.items()
    )
    if "strftime_now" in template:
        added = _clock(date.fromisoformat(day)) + added
    return f"{added}\n{template}" if added else template  # trim_blocks drops this line's end


def _clock(day: date) -> str:
    """Return a Jinja macro that stands in for ``strftime_now`` and knows one day only."""
    codes = json.dumps({f"%{code}": day.strftime(f"%{code}") for code in CODES})
    return (
        "{% macro strftime_now(format) %}{% set clock = namespace(text=format) %}"
        f"{{% for code, value in {codes}.items() %}}"
        "{% set clock.text = clock.text.replace(code, value) %}"
        "{% endfor %}{{ clock.text }}{% endmacro %}"
    )


def turn_of(tokenizer: Tokenizer) -> Turn:
    """Find how the tokenizer's chat template writes the assistant's turn.

    Raises:
        ModelError: the template cannot be used: it fails, leaves answers out, or
            writes prompts that no answer can follow.
    """
    return _turn_of(tokenizer, str(tokenizer.chat_template), len(tokenizer))


@functools.lru_cache(maxsize=32)
def _turn_of(tokenizer: Tokenizer, template: str, n_tokens: int) -> Turn:  # noqa: ARG001 - keys
    dialogue = [("user", QUESTION), ("assistant", ANSWER)]
    in_parts, whole = _first_that_answers(tokenizer, dialogue)
    before = _question(tokenizer, in_parts, generation=True)
    start = whole.rindex(ANSWER)
    common = os.path.commonprefix([before, whole[:start]])  # noqa: RUF071 - of characters
    cut = before[len(common) :]
    if not _is_reasoning(cut):
        raise ModelError(
            "the chat template renders a prompt differently once an answer follows it; "
            f"prompt and answer cannot be told apart; {OTHER_TEMPLATE} whose generation prompt "
            "is a prefix of the whole conversation"
        )
    opening, header = whole[len(common) : start], ""
    if opening.strip() and before == _question(tokenizer, in_parts, generation=False):
        opening, header = "", opening.rstrip(" ")
    end_id, is_closed = _end(tokenizer, whole[start + len(ANSWER) :], in_parts)
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= set(tokenizer.all_special_tokens)
    plain = _written(tokenizer, whole) - special - {tag for pair in REASONING for tag in pair}
    longest_first = sorted(special | plain, key=len, reverse=True)
    bos = tokenizer.bos_token_id
    several = [re.escape(token) for token in longest_first if len(token) > 1]
    return Turn(
        end_id=end_id,
        is_closed=is_closed,
        cut=cut,
        header=header,
        opening=opening,
        is_open=any(f"{common}{header}".rstrip().endswith(tag) for tag, _ in REASONING),
        in_parts=in_parts,
        special=re.compile("|".join(several) or "(?!)"),
        plain=frozenset(plain),
        bos_id=bos if tokenizer("").get("input_ids", [])[:1] == [bos] else None,
    )


def _first_that_answers(
    tokenizer: Tokenizer, dialogue: Sequence[tuple[str, str]]
) -> tuple[bool, str]:
    """Render the dialogue, with its content in parts where a plain one is not read."""
    failure: Exception | None = None
    for in_parts in (False, True):
        try:
            whole = _probe(tokenizer, dialogue, in_parts)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything
            failure = failure or error
            continue
        if all(content in whole for _, content in dialogue):
            return in_parts, whole
    if failure is not None:
        raise _failure(failure)
    raise ModelError(f"the chat template leaves out what a turn says; {OTHER_TEMPLATE}")


def _question(tokenizer: Tokenizer, in_parts: bool, *, generation: bool) -> str:
    try:
        return _probe(tokenizer, [("user", QUESTION)], in_parts, generation=generation)
    except Exception as error:
        raise _failure(error) from error


def _failure(error: Exception) -> ModelError:
    return ModelError(f"the chat template fails: {_words(error)}; {OTHER_TEMPLATE}")


def _end(tokenizer: Tokenizer, after: str, in_parts: bool) -> tuple[int, bool]:
    """Return the token that closes the turn, and whether the template writes it at the end.

    Raises:
        ModelError: no added token follows an answer, and there is no EOS token.
    """
    if (found := _first_added(tokenizer, after)) is not None:
        return found, True
    dialogue = [("user", QUESTION), ("assistant", ANSWER), ("user", NEXT)]
    try:
        _, _, rest = _probe(tokenizer, dialogue, in_parts).rpartition(ANSWER)
        found = _first_added(tokenizer, rest.partition(NEXT)[0])
    except Exception:  # noqa: BLE001 - a template may refuse a third turn
        found = None
    if found is not None:
        return found, False
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the chat template ends an answer with no special token and the tokenizer has no "
            f"EOS token; give the tokenizer one of the two, or {OTHER_TEMPLATE}"
        )
    return int(tokenizer.eos_token_id), False


def _first_added(tokenizer: Tokenizer, text: str) -> int | None:
    """Return the first added token of a text; BOS, which opens a turn, and blanks are none.

    Gemma has blanks among its added tokens.
    """
    known = tokenizer.added_tokens_decoder
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        is_added = token in tokenizer.all_special_ids or (
            token in known and not known[token].content.isspace()
        )
        if is_added and token != tokenizer.bos_token_id:
            return int(token)
    return None


def _written(tokenizer: Tokenizer, text: str) -> set[str]:
    """Return the added tokens that a rendered text has, blanks apart."""
    known = tokenizer.added_tokens_decoder
    ids = set(tokenizer(text, add_special_tokens=False)["input_ids"])
    found = {known[token].content for token in ids if token in known}
    return {content for content in found if not content.isspace()}


def _is_reasoning(text: str) -> bool:
    """Tell whether a text is blank but for tags of reasoning."""
    return not _without_tags(text).strip()


def _without_tags(text: str) -> str:
    for pair in REASONING:
        for tag in pair:
            text = text.replace(tag, "")
    return text


def render_prompt(tokenizer: Tokenizer, prompt: Iterable[Message]) -> str:
    """Render the turns after which the model is to answer.

    Raises:
        RowError: the template refuses the turns, or leaves one out.
    """
    turn, prompt = turn_of(tokenizer), list(prompt)
    text = _render(tokenizer, prompt, turn, generation=True)
    for message in prompt:
        if message.role == TOOLS:
            require_written(message.content, text)
        elif message.role != "assistant" and not _is_written(message.content, text, turn):
            raise RowError(
                CHANGED, f"the chat template leaves out or rewrites the {message.role}'s turn"
            )
    return text.removesuffix(turn.cut) + turn.header


def render_answer(
    tokenizer: Tokenizer, prompt: Sequence[Message], rendered: str, answer: Sequence[Message]
) -> str:
    """Render what the template appends to the rendered prompt for an answer.

    Raises:
        RowError: the template refuses the turns, leaves out part of the answer,
            or renders the prompt differently once it follows.
    """
    turn = turn_of(tokenizer)
    whole = _render(tokenizer, [*prompt, *answer], turn, generation=False)
    if not whole.startswith(rendered):
        raise RowError(
            CHANGED, "the chat template renders the prompt differently once this answer follows it"
        )
    text = whole[len(rendered) :]
    if not all(_is_written(message.content, text, turn) for message in answer):
        raise RowError(CHANGED, "the chat template leaves out or rewrites part of an answer")
    return text


def _is_written(content: str, text: str, turn: Turn) -> bool:
    """Tell whether a rendered text has all of a message, white space and tags aside."""
    content = escape(content.strip(), turn)
    return content in text or _squeezed(content) in _squeezed(text)


def _squeezed(text: str) -> str:
    return "".join(_without_tags(text).split())


def escape(content: str, turn: Turn) -> str:
    """Break what spells a token that only the template may write."""

    def broken(match: re.Match[str]) -> str:
        token = match[0]
        return token[0] + (CUT if token in turn.plain else BREAK) + token[1:]

    return turn.special.sub(broken, content)


def _render(
    tokenizer: Tokenizer, messages: Sequence[Message], turn: Turn, *, generation: bool
) -> str:
    turns = [(message.role, escape(message.content, turn)) for message in messages]
    try:
        return _probe(tokenizer, turns, turn.in_parts, generation=generation)
    except Exception as error:  # foreign code may raise anything
        roles = ", ".join(role for role, _ in turns)
        raise RowError(
            REFUSED, f"the chat template refuses the turns {roles}: {_words(error)}"
        ) from error


def _probe(
    tokenizer: Tokenizer,
    turns: Sequence[tuple[str, str]],
    in_parts: bool,
    *,
    generation: bool = False,
) -> str:
    """Render turns of (role, content) as text, whatever the template raises."""
    chat: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": content}] if in_parts else content}
        for role, content in turns
        if role != TOOLS
    ]
    return str(
        tokenizer.apply_chat_template(
            chat, tools=described(turns), tokenize=False, add_generation_prompt=generation
        )
    )


def _words(error: Exception) -> str:
    from jinja2 import TemplateError

    first_line = str(error).strip().partition("\n")[0]
    return (
        first_line if isinstance(error, TemplateError) else f"{type(error).__name__}: {first_line}"
    )


def split_reasoning(text: str, *, is_open: bool = False) -> tuple[str, str]:
    """Split an answer into its reasoning, tags included, and what it says after it.

    Args:
        text: the answer.
        is_open: whether the prompt left a block of reasoning open, so that the
            answer begins inside it.
    """
    for opening, closing in REASONING:
        if not (text.lstrip().startswith(opening) or (is_open and closing in text)):
            continue
        reasoning, tag, answer = text.partition(closing)
        return reasoning + tag, answer
    return (text, "") if is_open else ("", text)


def mark_of_template(text: str) -> str | None:
    """Return the first mark of a chat template that a prompt's text carries."""
    found = MARKS.search(text)
    return found[0] if found else None
