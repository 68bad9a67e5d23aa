"""The known forms of preference data: a table of columns and how a row of each is read.

Every form turns a row into whole dialogues, two for each pair: one that ends in
the better answer, one in the worse. One function then cuts both before their
last answer. A row that cannot be used has a reason.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from study.data.dialogues import (
    SIDES,
    Convert,
    answered,
    answers,
    best_first,
    by_index,
    by_label,
    by_name,
    by_sign,
    dialogues,
    judged,
    openai,
    ranked,
    shared_beginning,
    transcripts,
)
from study.data.pairs import Message, Pair, make_pair
from study.data.turns import (
    OPENING,
    PICTURES,
    PLACED,
    SYSTEMS,
    Row,
    Unusable,
    is_empty,
    same,
    text_of,
    tools_of,
    with_system,
)
from study.errors import DataError

Types = type | tuple[type, ...]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A known layout of columns and how one of its rows is read."""

    name: str
    columns: Mapping[str, Types]
    """Column -> type of its values; all of them must be there."""
    convert: Convert
    begins_as: re.Pattern[str] | None = None
    """What the text of the row, from ``prompt`` or else ``chosen`` on, begins with."""
    without: frozenset[str] = frozenset()
    """Columns that this form cannot have, as it would lose what they hold."""
    beside: frozenset[str] = frozenset()
    """Columns that are read where they are there, beside those of every form."""

    def has(self, sample: Row) -> bool:
        """Tell whether the columns, each with one of its values, are of this form."""
        return not self.without & sample.keys() and all(
            isinstance(sample.get(name), kind) for name, kind in self.columns.items()
        )

    def begins(self, sample: Row) -> bool:
        """Tell whether the text of a row begins as this form has it."""
        if self.begins_as is None:
            return True
        text = sample["chosen"] if sample.get("prompt") is None else sample["prompt"]
        return isinstance(text, str) and bool(self.begins_as.match(text))

    def reads(self) -> frozenset[str]:
        """Return every column that this form makes use of."""
        return frozenset(self.columns) | self.beside | ALWAYS


ALWAYS = frozenset({*SYSTEMS, *PICTURES, "tools", "source"})
"""Columns that are read in rows of every form."""


def read_row(row: Any, form: Form, source: str) -> Iterator[Pair | Unusable]:
    """Convert one row to its pairs, most often one; a pair that is none becomes a reason."""
    try:
        if not isinstance(row, dict):
            raise Unusable("not a record with one value per column")  # noqa: TRY301
        for column in PICTURES:
            if _holds_any(row.get(column)):
                raise Unusable(f"{column} that a text model cannot use")  # noqa: TRY301
        tools = tools_of(row)
        named = row.get("source")
        if isinstance(named, str) and named:
            source = text_of(named, "source")
        dialogues = list(form.convert(row))
    except Unusable as reason:
        yield reason
        return
    for dialogue in dialogues:
        try:
            better, worse = (with_system(row, side) for side in dialogue)
            yield _pair(better, worse, tools, source)
        except Unusable as reason:
            yield reason


def _holds_any(value: Any) -> bool:
    """Tell whether a value is more than null, nothing or a list of such."""
    return any(map(_holds_any, value)) if isinstance(value, list) else bool(value)


def _pair(
    better: list[Message], worse: list[Message], tools: tuple[Message, ...], source: str
) -> Pair:
    """Cut two dialogues before their last answer."""
    (*prompt, chosen), (*rejected_prompt, rejected) = better, worse
    if any(answer.role != "assistant" for answer in (chosen, rejected)):
        raise Unusable("last turn is not the assistant's")
    if not same(prompt, rejected_prompt):
        raise Unusable("prompts differ between the sides")
    if any(turn.role == "user" and PLACED.match(turn.content) for turn in prompt):
        raise Unusable("the place of a picture in prompt, which a text model cannot see")
    if not prompt or is_empty(prompt):
        raise Unusable("empty prompt, or an empty turn in it")
    if any(turn.role == "system" for turn in prompt[1:]):
        raise Unusable("a system turn that is not the first turn")
    if prompt[-1].role != "user":
        raise Unusable("turn before the answer is not the user's")
    for side, answer in zip(SIDES, (chosen, rejected), strict=True):
        if is_empty([answer]):
            raise Unusable(f"empty answer in {side}")
    if chosen.content.strip() == rejected.content.strip():
        raise Unusable("chosen equals rejected")
    return make_pair(
        prompt=(*tools, *prompt), chosen=(chosen,), rejected=(rejected,), source=source
    )


# Forms

ONE = (str, list, dict)
"""An answer: a text, a turn, turns, or a list of several."""


MARKED = (int, float, str, bool)


BESIDE = frozenset({"history", "context", "input"})
"""Columns that a prompt which is text takes in."""


FORMS = (
    Form(
        name="OpenAI preference (input, preferred_output, non_preferred_output)",
        columns={"input": dict, "preferred_output": list, "non_preferred_output": list},
        convert=openai,
    ),
    Form(
        name="ShareGPT (conversations, chosen, rejected)",
        columns={"conversations": list, "chosen": ONE, "rejected": ONE},
        convert=answers("conversations"),
    ),
    Form(
        name="HH-RLHF transcripts (chosen, rejected)",
        columns={"chosen": str, "rejected": str},
        convert=transcripts,
        begins_as=OPENING,
    ),
    Form(
        name="TRL preference, conversational (prompt, chosen, rejected)",
        columns={"prompt": (list, dict), "chosen": ONE, "rejected": ONE},
        convert=answers("prompt"),
    ),
    Form(
        name="whole dialogues (prompt, chosen, rejected)",
        columns={"prompt": str, "chosen": list, "rejected": list},
        convert=dialogues,
        beside=BESIDE,
    ),
    *(
        Form(
            name=name,
            columns={prompt: str, "chosen": ONE, "rejected": ONE},
            convert=answers(prompt),
            beside=BESIDE,
        )
        for name, prompt in (
            ("TRL preference, text (prompt, chosen, rejected)", "prompt"),
            ("Alpaca-style (instruction, input, chosen, rejected)", "instruction"),
            ("orca (system, question, chosen, rejected)", "question"),
            ("axolotl (system, input, chosen, rejected)", "input"),
        )
    ),
    *(
        Form(
            name=f"argilla ({prompt}, chosen_response, rejected_response)",
            columns={prompt: ONE, "chosen_response": ONE, "rejected_response": ONE},
            convert=answers(prompt, "chosen_response", "rejected_response"),
            beside=BESIDE,
        )
        for prompt in ("prompt", "instruction")
    ),
    Form(
        name="axolotl (messages, chosen, rejected)",
        columns={"messages": list, "chosen": ONE, "rejected": ONE},
        convert=answers("messages"),
    ),
    *(
        Form(
            name=f"ms-swift (messages, {worse})",
            columns={"messages": list, worse: ONE},
            convert=answered(worse),
        )
        for worse in ("rejected_response", "rejected_messages")
    ),
    Form(
        name="Alpaca (instruction, input, output: the better answer, then worse ones)",
        columns={"instruction": str, "output": list},
        convert=best_first,
        beside=BESIDE,
    ),
    Form(
        name="Stack Exchange (question, response_j, response_k)",
        columns={"question": str, "response_j": str, "response_k": str},
        convert=answers("question", "response_j", "response_k"),
        beside=BESIDE,
    ),
    *(
        Form(
            name=f"two answers and a verdict ({', '.join(columns)})",
            columns={**dict.fromkeys(columns[:-1], ONE), columns[-1]: MARKED},
            convert=judged(*columns, first_is_better=first_is_better),
            beside=BESIDE if columns[0] == "prompt" else frozenset(),
        )
        for columns, first_is_better in (
            (("history", "human_ref_A", "human_ref_B", "labels"), by_label),  # SHP
            (("prompt", "response_1", "response_2", "preference_strength"), by_sign),  # HelpSteer2
            (("context", "response1", "response2", "overall_preference"), by_sign),  # HelpSteer3
            (("prompt", "response_0", "response_1", "better_response_id"), by_index),  # SafeRLHF
            (("prompt", "response_a", "response_b", "winner"), by_name),
        )
    ),
    Form(
        name="two dialogues and a verdict (conversation_a, conversation_b, winner)",
        columns={"conversation_a": list, "conversation_b": list, "winner": str},
        convert=judged("", "conversation_a", "conversation_b", "winner", first_is_better=by_name),
    ),
    *(
        Form(
            name=f"ranked answers ({', '.join(filter(None, columns))})",
            columns={columns[0]: ONE, **dict.fromkeys(filter(None, columns[1:]), list)},
            convert=ranked(*columns),
            beside=BESIDE,
        )
        for columns in (
            ("prompt", "answers", ""),  # Nectar
            ("instruction", "completions", ""),  # UltraFeedback
            ("prompt", "responses", "scores"),
            ("prompt", "responses", "ranks"),
        )
    ),
    Form(
        name="TRL preference, conversational, implicit prompt (chosen, rejected)",
        columns={"chosen": (list, dict), "rejected": (list, dict)},
        convert=dialogues,
    ),
    Form(
        name="TRL preference, text, implicit prompt (chosen, rejected)",
        columns={"chosen": str, "rejected": str},
        convert=shared_beginning,
        without=frozenset(
            "prompt question instruction input query context history messages".split()
        )
        | {"conversation", "conversations"},
    ),
)
"""Every known form; the first that fits is taken."""


COLUMNS = frozenset().union(*(form.reads() for form in FORMS))
"""Every column that some form reads."""


def forms_of(rows: Sequence[Any]) -> list[Form | None]:
    """Return the form of each row; a column that it leaves out counts as null."""
    columns = dict.fromkeys(columns_of(rows))
    known: dict[Any, list[Form]] = {}
    found: list[Form | None] = []
    for row in rows:
        if not isinstance(row, dict):
            found.append(None)
            continue
        kinds = tuple((name, type(value)) for name, value in row.items())
        if kinds not in known:
            known[kinds] = [form for form in FORMS if form.has(columns | row)]
        found.append(next((form for form in known[kinds] if form.begins(row)), None))
    return found


def most_frequent(forms: Sequence[Form | None], rows: Sequence[Any], name: str) -> Form:
    """Return the form of most rows.

    Raises:
        DataError: no form fits, or the rows hold single answers with a label.
    """
    votes = Counter(form.name for form in forms if form is not None)
    if votes:
        winner = max(votes, key=votes.__getitem__)
        return next(form for form in FORMS if form.name == winner)
    sample = columns_of(rows)
    columns = ", ".join(f"{column} ({type(value).__name__})" for column, value in sample.items())
    columns = columns[:1000] or "(none)"
    if {"completion", "response"} & sample.keys() and not set(SIDES) & sample.keys():
        raise DataError(
            f"{name} holds unpaired answers (columns {columns}); ORPO needs a chosen and a "
            "rejected answer per prompt: join good and bad answers to a prompt into one row"
        )
    known = "".join(f"\n  {form.name}" for form in FORMS)
    raise DataError(
        f"{name} has columns {columns}, which are of no known form; {_renames(sample)}. Known "
        f"forms:{known}"
    )


def columns_of(rows: Sequence[Any]) -> dict[str, Any]:
    """Return every column of the rows with its first value that is not null."""
    sample: dict[str, Any] = {}
    for row in rows:
        if isinstance(row, dict):
            for column, value in row.items():
                if sample.get(column) is None:
                    sample[column] = value
    return sample


WORDS = {
    "prompt": {*"query user user_prompt user_input human problem task text message ask".split()},
    "chosen": {
        *"preferred accepted accept positive pos better best good winner win selected".split(),
        *"preferred_response response_chosen chosen_answer answer_chosen y_w correct".split(),
    },
    "rejected": {
        *"dispreferred non_preferred unpreferred declined reject negative neg worse worst".split(),
        *"bad loser lose response_rejected rejected_answer answer_rejected y_l wrong".split(),
    },
}
"""Column of ours -> what it is called elsewhere."""


def _renames(columns: Mapping[str, Any]) -> str:
    """Say which columns to rename, where their names tell."""
    said = {}
    for ours in ("prompt", *SIDES):
        words = [name for name in columns if name.strip().lower() in {ours, *WORDS[ours]}]
        near = words or get_close_matches(ours, [*columns], n=1, cutoff=0.75)
        if ours not in columns and near:
            said[near[0]] = ours
    if not said:
        return (
            "rename them in the file, or with data.columns, a table such as "
            '{ question_text = "prompt", good = "chosen", bad = "rejected" }'
        )
    options = " ".join(
        f"--set {shlex.quote(f'data.columns.{name}={ours}')}" for name, ours in said.items()
    )
    return f"rename them in the file, or with {options}"
