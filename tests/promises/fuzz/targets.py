"""What is fuzzed: bytes go in, and a broken promise comes out as an AssertionError.

Every target takes any bytes. `SEEDS` holds inputs to mutate from.
"""

import functools
import gzip
import html.parser
import io
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

from paper.escape import generated_html, generated_tex, printable, tex
from study.config.recipe import DataConfig
from study.data.dialogues import SIDES
from study.data.load import load_pairs
from study.data.pairs import fingerprint
from study.data.splits import split_pairs
from study.errors import DataError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


def loader(data: bytes) -> None:
    """Read a file: the first byte chooses its type, the rest is its content."""
    kind, content = (data[0], data[1:]) if data else (0, b"")
    if kind & 4:
        content = gzip.compress(content, compresslevel=1)
    _load(f"rows{SUFFIXES[kind % 4]}", content)


def rows(data: bytes) -> None:
    """Read JSON rows of any columns and values, drawn from the bytes."""
    source = _Draws(data)
    lines = [json.dumps(_row(source)) for _ in range(1 + source.below(5))]
    _load("rows.jsonl", "\n".join(lines).encode())


def escapes(data: bytes) -> None:
    """Escape any text for both formats."""
    text = data.decode("utf-8", errors="surrogateescape")
    page = _Page(f"<p>{generated_html(text)}</p>")
    assert page.tags.keys() <= {("p", ()), ("span", ("class",))}
    assert page.tags["p", ()] == 1
    assert not set(printable(page.text)) & {*map(chr, range(9)), "\x7f", "\ud800"}
    for escaped in (tex(text), generated_tex(text)):
        check_tex(str(escaped))


def templates(data: bytes) -> None:
    """Put any text wherever a template of the report may have it."""
    text = data.decode("utf-8", errors="surrogateescape")
    for latex in (False, True):
        rendered = _template(latex=latex).render(text=text, rows={text: text})
        if latex:
            check_tex(rendered.replace("\n", " "))
        else:
            tags = dict(_Page(printable(rendered)).tags)
            tags.pop(("span", ("class",)), None)
            assert tags == {("p", ("title",)): 1, ("td", ()): 2, ("pre", ()): 1}, tags


TARGETS = {target.__name__: target for target in (loader, rows, escapes, templates)}


# Loaders


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def _load(name: str, content: bytes) -> None:
    path = _folder() / name
    path.write_bytes(content)
    config = DataConfig(
        name=str(path),
        revision="",
        split="train",
        train_pairs=0,
        validation_pairs=1,
        test_pairs=1,
        max_prompt_tokens=96,
        max_length_tokens=160,
        seed=1,
        max_dropped_share=1.0,
    )
    try:
        loaded = load_pairs(config)
    except DataError as error:
        assert len(str(error)) < 5_000  # noqa: PT017
        return
    numbers = [number for found in loaded.dropped.values() for number in found]
    assert loaded.pairs
    assert len(numbers) == loaded.n_dropped >= loaded.n_rows - len(loaded.pairs)
    assert not numbers or 1 <= min(numbers) <= max(numbers) <= loaded.n_rows
    for pair in loaded.pairs:
        assert pair.prompt[-1].role == "user"
        assert all(turn.role in {"system", "user", "assistant"} for turn in pair.prompt)
        assert not any(turn.role == "system" for turn in pair.prompt[1:])
        assert pair.chosen[0].content.strip() != pair.rejected[0].content.strip()
        assert all(turn.content.strip() for turn in (*pair.prompt, *pair.chosen, *pair.rejected))
    assert len({pair.example_id for pair in loaded.pairs}) == len(loaded.pairs)
    fingerprint(loaded.pairs).encode()
    try:
        splits = split_pairs(loaded.pairs, config)
    except DataError:
        return
    assert len(splits.test) == len(splits.validation) == 1


class _Draws:
    """Small numbers from bytes; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def below(self, n: int) -> int:
        return (self.data.read(1) or b"\0")[0] % n

    def text(self) -> str:
        kind = self.below(12)
        if kind < len(TEXTS):
            return TEXTS[kind]
        return self.data.read(self.below(24)).decode("utf-8", errors="surrogateescape")


TEXTS = (
    "Yes.", "No.", "\n\nHuman: Hi\n\nAssistant: Yes.", "\n\nHuman: Hi\n\nAssistant: No.",
    '[{"role": "user", "content": "x"}]', "", "\u200b", "Human: ",
)  # fmt: skip
COLUMNS = (
    *SIDES, *SIDES, "prompt", "prompt", "system", "question", "instruction", "input", "history",
    "conversations", "source", "label", "completion",
)  # fmt: skip
ROLES = ("user", "assistant", "system", "human", "gpt", "tool", "User", "")


def _row(source: _Draws) -> object:
    if source.below(20) == 19:
        return _value(source)
    n_columns = 2 + source.below(4)
    usual = {side: _value(source) for side in SIDES} if source.below(4) else {}
    return usual | {COLUMNS[source.below(len(COLUMNS))]: _value(source) for _ in range(n_columns)}


def _value(source: _Draws) -> object:
    kind = source.below(12)
    if kind < 6:
        return source.text()
    if kind < 10:
        return [_turn(source) for _ in range(source.below(4))]
    return (None, 7, 1.5, True, _turn(source), {}, [], [None])[source.below(8)]


def _turn(source: _Draws) -> object:
    kind = source.below(10)
    if kind == 9:
        return (None, 7, "x", [], {})[source.below(5)]
    role, content = ("from", "value") if kind == 8 else ("role", "content")
    return {role: ROLES[source.below(len(ROLES))], content: source.text()}


# Renderers


class _Page(html.parser.HTMLParser):
    """Counts elements by their name and the names of their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag, tuple(sorted(name for name, _ in attrs))] += 1

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags["comment", ()] += 1

    def handle_decl(self, decl: str) -> None:
        self.tags["declaration", ()] += 1

    def handle_pi(self, data: str) -> None:
        self.tags["instruction", ()] += 1


def check_tex(escaped: str) -> None:
    """Check that escaped text holds no active character and no unknown command."""
    words = set(re.findall(r"\\[a-zA-Z@]+", re.sub(r"\\[^a-zA-Z@]", "", escaped)))
    assert words <= _allowed_words(), words - _allowed_words()
    plain = re.sub(r"\\[{}$&#%_ ,]", "", escaped)
    plain = re.sub(r"\\[a-zA-Z]+", "", plain)
    assert not set(plain) & set("\\$&#%_^~\n\r\x00"), plain
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0


@functools.cache
def _allowed_words() -> frozenset[str]:
    from paper import escape

    own = r"\leavevmode\strut\hfil\break\clipped\allowbreak\codepoint\described\ensuremath"
    printed = "".join(map(str, escape._TEX.values()))
    return frozenset(re.findall(r"\\[a-zA-Z]+", own + printed))


@functools.cache
def _template(*, latex: bool):
    from paper.render import html_environment, tex_environment

    if latex:
        return tex_environment().from_string(
            "((( text ))) ((* for key, value in rows.items() *))((( key ))): ((( value )))"
            "((* endfor *)) ((( text | generated )))"
        )
    return html_environment(()).from_string(
        '<p title="{{ text }}">{{ text }}</p>{% for key, value in rows.items() %}<td>{{ key }}</td>'
        "<td>{{ value }}</td>{% endfor %}<pre>{{ text | generated }}</pre>"
    )


# Inputs to begin with


def _seeds() -> dict[str, list[bytes]]:
    turns = [
        [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": answer}]
        for answer in ("Two.", "Three.")
    ]
    texts = [{"prompt": f"{n} + 1?", "chosen": f"{n + 1}", "rejected": f"{n}"} for n in range(4)]
    talks = [{"prompt": f"{n}?", "chosen": turns[0], "rejected": turns[1]} for n in range(2)]
    shared = {"conversations": [{"from": "human", "value": "1 + 1?"}]}
    shared |= {"chosen": {"from": "gpt", "value": "2"}, "rejected": {"from": "gpt", "value": "3"}}
    told = {side: f"\n\nHuman: 1 + 1?\n\nAssistant: {side}" for side in SIDES}
    tables = [texts, talks, [shared], [told], [{"instruction": "a", "input": "b", **texts[0]}]]
    lines = ["\n".join(map(json.dumps, table)).encode() for table in tables]
    lists = [json.dumps(table, indent=1).encode() for table in tables]
    csv = b'prompt,chosen,rejected\r\n"1, 2?",Two,"Th""ree"\r\na,b,c\r\nd,e,f\r\n'
    files = [(0, line) for line in lines] + [(1, text) for text in lists]
    files += [(2, csv), *((3, _parquet(table)) for table in (texts, talks))]
    typed = [bytes([kind]) + content for kind, content in files]
    squeezed = [bytes([kind | 4]) + content for kind, content in files]
    raw = [bytes([kind]) + gzip.compress(content) for kind, content in files[:2]]
    words = [
        b"<script>alert(1)</script>", b"\"' onload=x <!-- --> &lt; &#0;",
        b"\\input{x} $a^b_c$ ~ %#&",
        "漢 עברית \u202e\u200b 😀 ﬁ −3·10⁻³ ≤ √ \x00\x1b[31m".encode(), b"\xff\xfe^^5c--- ,, '' ``",
        b"{{ 7*7 }} ((( 7*7 ))) {% x %} ((* x *)) ((= x =))", b"a" * 40 + b"\n\n  b\tc\r\nd",
    ]  # fmt: skip
    drawn = [bytes(range(start, start + 120)) for start in range(0, 130, 13)]
    return {
        "loader": typed + squeezed + raw,
        "rows": drawn,
        "escapes": words,
        "templates": words,
    }


def _parquet(table: list[dict[str, object]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(table), sink, compression="none")
    return sink.getvalue()


SEEDS = _seeds()
