"""Read hand-written prose and references; print them as HTML or LaTeX.

The prose in ``text/*.md`` knows paragraphs, ``- `` lists, ``**strong**``,
``*emphasis*``, ``code`` in backquotes and citations, ``[@key]``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from paper.escape import tex

FOLDER = Path(__file__).parent
BIBLIOGRAPHY = FOLDER / "refs.bib"


@dataclass(frozen=True)
class Reference:
    """One entry of ``refs.bib``."""

    key: str
    fields: Mapping[str, str]

    @property
    def authors(self) -> str:
        """The authors, first names first, ``et al.`` for the rest."""
        names = [_plain_name(name) for name in self.fields["author"].split(" and ")]
        if names[-1] == "others":
            return f"{', '.join(names[:-1])} et al."
        return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

    @property
    def venue(self) -> str:
        """Where it appeared, with its year."""
        place = next(
            (self.fields[name] for name in ("journal", "booktitle", "howpublished")
             if name in self.fields), "",
        )  # fmt: skip
        return ", ".join(filter(None, [place, self.fields["year"]]))


def read_references(path: Path = BIBLIOGRAPHY) -> tuple[Reference, ...]:
    """Read the entries of a BibTeX file, sorted as ``plainnat`` sorts them.

    Fields stand one per line in the form ``name = {value},``.
    """
    entries = re.findall(
        r"^@\w+\{([^,]+),\n(.*?)^\}", path.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    references = [Reference(key, _fields(body)) for key, body in entries]
    return tuple(
        sorted(references, key=lambda entry: (entry.fields["author"].casefold(), entry.key))
    )


def read_text(name: str) -> str:
    """Return the prose of one section, or nothing where none was written."""
    path = FOLDER / "text" / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def prose_html(text: str, references: Sequence[Reference]) -> Markup:
    """Turn prose into HTML paragraphs and lists with linked citations."""
    numbers = {entry.key: number for number, entry in enumerate(references, start=1)}

    def cite(keys: list[str]) -> str:
        links = ", ".join(f'<a href="#ref-{key}">{numbers[key]}</a>' for key in keys)
        return f'<span class="cite">[{links}]</span>'

    marks = _Marks(
        escape=lambda plain: str(escape(plain)),
        strong="<strong>{}</strong>",
        emphasis="<em>{}</em>",
        code="<code>{}</code>",
        cite=cite,
    )
    return Markup("\n").join(Markup(_html_block(block, marks)) for block in _blocks(text))  # noqa: S704 (escaped above)


def prose_tex(text: str) -> Markup:
    r"""Turn prose into LaTeX paragraphs and lists with ``\citep``."""
    marks = _Marks(
        escape=lambda plain: str(tex(plain)),
        strong=r"\textbf{{{}}}",
        emphasis=r"\emph{{{}}}",
        code=r"\texttt{{{}}}",
        cite=lambda keys: rf"\citep{{{','.join(keys)}}}",
    )
    return Markup("\n\n").join(Markup(_tex_block(block, marks)) for block in _blocks(text))  # noqa: S704 (escaped above)


@dataclass(frozen=True, kw_only=True)
class _Marks:
    escape: Callable[[str], str]
    strong: str
    emphasis: str
    code: str
    cite: Callable[[list[str]], str]


def _fields(body: str) -> dict[str, str]:
    return {
        name.lower(): value.replace("{", "").replace("}", "").replace("--", "–")
        for name, value in re.findall(r"^\s*(\w+)\s*=\s*\{(.*)\},?\s*$", body, re.MULTILINE)
    }


def _plain_name(name: str) -> str:
    last, _, first = name.partition(", ")
    return f"{first} {last}".strip()


def _blocks(text: str) -> list[str]:
    return [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]


def _items(block: str) -> list[str]:
    return [
        " ".join(item.split())
        for item in re.split(r"^- ", block, flags=re.MULTILINE)
        if item.strip()
    ]


def _html_block(block: str, marks: _Marks) -> str:
    if not block.startswith("- "):
        return f"<p>{_inline(block, marks)}</p>"
    return f"<ul>{''.join(f'<li>{_inline(item, marks)}</li>' for item in _items(block))}</ul>"


def _tex_block(block: str, marks: _Marks) -> str:
    if not block.startswith("- "):
        return _inline(block, marks)
    items = "\n".join(rf"\item {_inline(item, marks)}" for item in _items(block))
    return f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}"


_INLINE = re.compile(r"(\*\*.+?\*\*|\*.+?\*|`.+?`|\[@[^\]]+\])", re.DOTALL)


def _inline(text: str, marks: _Marks) -> str:
    return "".join(_mark(part, marks) for part in _INLINE.split(" ".join(text.split())))


def _mark(part: str, marks: _Marks) -> str:
    if part.startswith("**"):
        return marks.strong.format(marks.escape(part[2:-2]))
    if part.startswith("*"):
        return marks.emphasis.format(marks.escape(part[1:-1]))
    if part.startswith("`"):
        return marks.code.format(marks.escape(part[1:-1]))
    if part.startswith("[@"):
        return marks.cite(re.findall(r"@([\w-]+)", part))
    return marks.escape(part)
