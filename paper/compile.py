"""Compile LaTeX that holds text which nobody vetted, and say what a machine lacks for it."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from paper.scripts import EMOJI, FONTS, LUALATEX, scripts_of

TIMEOUT_S = 180
"""LuaLaTeX reads a font of 20 MB anew where nothing is cached yet."""
FONT_FOLDERS = (
    "/usr/share/fonts//",
    "/usr/local/share/fonts//",
    "~/.local/share/fonts//",
    "~/.fonts//",
    "/Library/Fonts//",
    "~/Library/Fonts//",
)
"""Where systems keep fonts; LuaLaTeX finds them by file name, without an index."""
LIMITS = {"openin_any": "p", "openout_any": "p", "shell_escape": "f"}
"""TeX runs no command and opens no file outside its folder but TeX's own and fonts."""


def missing_for_scripts(source: str) -> str | None:
    """Say what is missing to print a document's other scripts, or None.

    Args:
        source: LaTeX as `paper.render.render_tex` writes it.
    """
    scripts = [name for name in scripts_of(source) if name != EMOJI]
    return _missing(scripts, f"report.pdf prints {', '.join(scripts)} text as code points")


def missing_for_emoji(source: str) -> str | None:
    """Say what is missing to print a document's emoji, or None; without, they are named."""
    scripts = [name for name in scripts_of(source) if name == EMOJI]
    return _missing(scripts, "report.pdf names emoji in words")


def _missing(scripts: Sequence[str], effect: str) -> str | None:
    fonts = [FONTS[name] for name in scripts if name in FONTS]
    packages, missing = [], []
    if scripts and shutil.which("lualatex") is None:
        packages, missing = ["texlive-luatex"], ["LuaLaTeX"]
    found = _found([font.file for font in fonts])
    missing += dict.fromkeys(font.file for font in fonts if font.file not in found)
    packages += dict.fromkeys(font.package for font in fonts if font.file not in found)
    if not missing:
        return None
    return (
        f"{effect}, since {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; "
        f"on Debian install {' '.join(packages)}"
    )


def compile_pdf(tex: Path) -> tuple[Path | None, str | None]:
    """Compile a LaTeX file beside itself; return the PDF, or a hint and no PDF.

    Its first line says whether it is for LuaLaTeX, else it is for pdfLaTeX.
    """
    pdf = tex.with_suffix(".pdf")
    pdf.unlink(missing_ok=True)
    is_lua = tex.read_text(encoding="utf-8").startswith(LUALATEX)
    engine = "lualatex" if is_lua else "pdflatex"
    if shutil.which("latexmk") is None or shutil.which(engine) is None:
        return None, (
            f"no report.pdf: latexmk or {engine} is missing; on Debian install latexmk "
            "texlive-latex-recommended texlive-fonts-recommended lmodern"
            f"{' texlive-luatex' if is_lua else ''}"
        )
    command = (
        "latexmk", "-norc", "-g", "-pdflua" if is_lua else "-pdf", "-interaction=nonstopmode",
        "-halt-on-error", "-latexoption=-no-shell-escape", tex.name,
    )  # fmt: skip
    try:
        subprocess.run(  # noqa: S603 (a fixed command and our own file name)
            command,
            cwd=tex.parent,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=TIMEOUT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pdf.unlink(missing_ok=True)
        return None, f"no report.pdf: LaTeX failed; {tex.with_suffix('.log')} says where"
    return pdf, None


def _found(files: list[str]) -> set[str]:
    """Return the font files among those named that LuaLaTeX will find."""
    kpsewhich = shutil.which("kpsewhich")
    if not files or kpsewhich is None:
        return set()
    done = subprocess.run(  # noqa: S603 (a fixed command and our own file names)
        [kpsewhich, *files], env=_environment(), capture_output=True, text=True, check=False
    )
    return {Path(line).name for line in done.stdout.splitlines()}


def _environment() -> dict[str, str]:
    folders = os.pathsep.join(os.path.expanduser(folder) for folder in FONT_FOLDERS)  # noqa: PTH111 (pathlib drops the slashes)
    return {"OSFONTDIR": folders, **os.environ, **LIMITS}
