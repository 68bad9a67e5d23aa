"""Rehearse a foreign chat template in a process of its own, before it is used here.

A template is a program that comes with a model. transformers' sandbox keeps it
from files and from Python; it keeps it neither from running for ever nor from
filling the memory. So it first renders a few short dialogues under limits of
time, memory and size. What it raises is of no concern here: it can refuse turns.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from study.errors import ModelError

CPU_S = 10
"""Seconds of computing; the dialogues take some milliseconds, starting Python one second."""
WALL_S = 300
"""Seconds after which a process that does not even compute is stopped."""
MEMORY_BYTES = 2 * 2**30
SIZE_CHARACTERS = 200_000
"""For one dialogue of a few words; long prompts of tools and rules stay far below."""

SPEECH = "What is three plus four? " * 8
DIALOGUES = (
    ("user",),
    ("user", "assistant"),
    ("system", "user", "assistant"),
    ("system", "user", "assistant", "user", "assistant", "user", "assistant"),
)


def rehearse(template: str, *, special_tokens: Mapping[str, str], model: str) -> None:
    """Render short dialogues with a template in a process of its own.

    Args:
        template: Jinja, with its variables written into it.
        special_tokens: such as ``bos_token``, which templates write.
        model: whose template it is, for messages.

    Raises:
        ModelError: it does not end, or builds too much.
    """
    fault = _fault(template, json.dumps(dict(special_tokens), sort_keys=True))
    if fault:
        raise ModelError(
            f"the chat template of {model} {fault}; it was stopped. "
            'Name another with model.chat_template, a file or "chatml"'
        )


@functools.lru_cache(maxsize=32)
def _fault(template: str, special_tokens: str) -> str:
    """Say what is wrong with a template, or nothing."""
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import perform; perform()"
    task = {"template": template, "special_tokens": json.loads(special_tokens), "cpu_s": CPU_S}
    try:
        done = subprocess.run(  # noqa: S603 - this Python, and a program of ours
            [sys.executable, "-c", program],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"does not end (nothing after {WALL_S} seconds)"
    if done.returncode < 0:  # a signal: that of the limit of time, as a rule
        return f"does not end (nothing after {CPU_S} seconds of computing)"
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        return f"cannot be tried in a process of its own ({last or 'no message'})"
    return done.stdout.strip()


def perform() -> None:
    """Render the dialogues under limits; print what is wrong. Runs in the process of its own."""
    import resource

    task = json.load(sys.stdin)
    from transformers.utils.chat_template_utils import render_jinja_template

    resource.setrlimit(resource.RLIMIT_CPU, (task["cpu_s"], task["cpu_s"]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for roles in DIALOGUES:
        for content in (SPEECH, [{"type": "text", "text": SPEECH}]):
            try:
                rendered: Any = render_jinja_template(
                    [[{"role": role, "content": content} for role in roles]],
                    chat_template=task["template"],
                    add_generation_prompt=roles[-1] == "user",
                    **task["special_tokens"],
                )
                is_huge = len(rendered[0][0]) > SIZE_CHARACTERS
            except MemoryError:
                is_huge = True
            except Exception:  # noqa: BLE001, S112 - it may refuse turns; others tell of that
                continue
            if is_huge:
                sys.stdout.write(f"builds more than {SIZE_CHARACTERS:,} characters of a few words")
                return
