"""Slurm: a job array whose tasks run one restartable command on one folder of records.

Tasks share searches and comparisons as processes of one machine do. Before a task's
time is up Slurm tells its script, the script tells the command, which saves
checkpoints and ends, and the task is put into the queue again.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from study.errors import ConfigError, RecordError, first_line, require
from study.records.files import read_json, write_bytes, write_json
from study.records.layout import SLURM

SCRIPT, JOB = "job.sh", "job.json"


COMMANDS = ("search", "compare", "claims", "reproduce", "benchmark")
"""Commands that go on where they were stopped."""


EARLY_S = 60
"""Slurm may send a signal so much sooner than asked (sbatch(1), ``--signal``)."""


RESTARTS = 1000
"""A task that was put back so often makes no progress."""


TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
"""Minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes:seconds."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a task asks of the cluster; None leaves it to the cluster's defaults."""

    tasks: int = 1
    """Tasks of the array."""
    at_once: int | None = None
    """Tasks that may run at the same time."""
    partition: str | None = None
    time: str | None = None
    """Limit of each task as sbatch takes it, such as 4:00:00."""
    gpus: str | None = None
    """GPUs per task: a number, or type:number."""
    cpus: int | None = None
    memory: str | None = None
    """Memory per task, such as 32G."""
    notice_s: int = 120
    """Seconds before the limit at which checkpoints are saved."""
    options: tuple[str, ...] = ()
    """Further options of sbatch, such as --account=NAME."""
    setup: tuple[str, ...] = ()
    """Lines of shell that come first, such as ``module load cuda``."""

    def __post_init__(self) -> None:
        for option in self.options:
            require(
                option.startswith("-") and "\n" not in option,
                f"--sbatch is {option!r}; give an option of sbatch, such as --sbatch=--account=me",
            )
        limit_s = None if self.time is None else seconds_of(self.time)
        least_s = self.notice_s + 2 * EARLY_S
        require(
            limit_s is None or limit_s >= least_s,
            f"--time is {self.time}, and {self.notice_s} s before the end, or a minute sooner, "
            f"every task is told to save and to stop; give at least {least_s // 60 + 1} minutes, "
            "or a smaller --notice",
        )


def seconds_of(time: str) -> int | None:
    """Return a time limit in seconds, None where there is none.

    Raises:
        ConfigError: sbatch takes no such time.
    """
    if time.casefold() in ("unlimited", "infinite"):
        return None
    found = TIME.fullmatch(time)
    if found is None:
        raise ConfigError(
            f"--time is {time!r}; it is minutes, hours:minutes:seconds, or days-hours, "
            "such as 90, 4:00:00 or 1-12"
        )
    days, *given = found.groups()
    numbers = [int(number) for number in given if number is not None]
    if days is None and len(numbers) < 3:  # minutes come first
        numbers.insert(0, 0)
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def write_script(runs: Path, words: Sequence[str], wanted: Wanted, recipes: Sequence[str]) -> Path:
    """Write the script of a command into a folder of its own and return its path.

    Args:
        runs: folder of all records.
        words: the command and its arguments, as `study` takes them.
        wanted: what its tasks ask for.
        recipes: names of the recipes that it trains, for the status.
    """
    now = datetime.now(UTC)
    name = f"{now:%Y%m%dT%H%M%S}-{words[0]}"
    folder, number = runs / SLURM / name, 1
    while folder.exists():
        number += 1
        folder = runs / SLURM / f"{name}-{number}"
    folder = folder.absolute()
    write_bytes(folder / SCRIPT, script(folder, words, wanted).encode())
    (folder / SCRIPT).chmod(0o755)
    job = {
        "id": None,
        "command": list(words),
        "recipes": list(recipes),
        "tasks": wanted.tasks,
        "written_at": now.isoformat(timespec="seconds"),
    }
    write_json(folder / JOB, job)
    return folder / SCRIPT


def script(folder: Path, words: Sequence[str], wanted: Wanted) -> str:
    """Return the text of a batch script whose logs go to ``folder``."""
    at_once = "" if wanted.at_once is None else f"%{wanted.at_once}"
    given = {
        "job-name": f"study-{words[0]}",
        "array": f"1-{wanted.tasks}{at_once}",
        "chdir": _quoted(str(Path.cwd())),
        "output": _quoted(f"{folder}/".replace("%", "%%") + "%a.log"),
        "open-mode": "append",
        "nodes": "1",
        "ntasks": "1",
        "signal": f"B:USR1@{wanted.notice_s}",
        "partition": wanted.partition,
        "time": wanted.time,
        "gres": wanted.gpus and f"gpu:{wanted.gpus}",
        "cpus-per-task": wanted.cpus,
        "mem": wanted.memory,
    }
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return TEMPLATE.format(
        options="\n".join(f"#SBATCH {one}" for one in (*options, "--requeue", *wanted.options)),
        setup="".join(f"{line}\n" for line in wanted.setup),
        folder=shlex.quote(str(folder)),
        command=shlex.join([sys.executable, "-m", "study.cli", *words]),
        patience_s=max(1, wanted.notice_s - 30),
        restarts=RESTARTS,
    )


TEMPLATE = """\
#!/bin/bash
{options}

# Written by `study submit`. Every task runs the same command on the same records: what
# one of them has finished or works on, the others leave to it.
folder={folder}
ended="$folder/$SLURM_ARRAY_TASK_ID.ended"
rm -f "$ended"
echo "task $SLURM_ARRAY_TASK_ID of job $SLURM_ARRAY_JOB_ID on $(hostname), start \
$((${{SLURM_RESTART_COUNT:-0}} + 1)), $(date -Is)"
{setup}
{command} &
study=$!

told=
notice() {{  # time runs out: save, end, and if that takes too long, end anyway
  told=1
  kill -USR1 "$study"
  (sleep {patience_s}; kill -TERM "$study") 2>/dev/null &
}}
trap notice USR1
trap 'kill -TERM "$study"' TERM INT

while :; do  # a signal ends a wait, not the command
  wait "$study"
  status=$?
  kill -0 "$study" 2>/dev/null || break
done
wait "$study" 2>/dev/null  # a signal may have ended the last wait after the command's end
again=$?
((again == 127)) || status=$again  # 127: a shell may forget what it has told

trap '' TERM  # which comes with being put back
# 75 is the command's own word for: stopped by notice, run me again.
if ((status == 75)) || [[ $told && $status != 0 ]]; then
  if ((${{SLURM_RESTART_COUNT:-0}} < {restarts})); then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID" && exit "$status"
    echo "Slurm did not take the task back; submit the command again to go on" >&2
  else
    echo "not put back: {restarts} starts were not enough" >&2
  fi
fi
echo "$status" >"$ended"
exit "$status"
"""


def submit(path: Path) -> str:
    """Hand a script that was written to Slurm and return the job's number.

    Raises:
        ConfigError: there is no sbatch here, or it refused.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise ConfigError(
            f"sbatch was not found: {path} is written, hand it to Slurm where sbatch is (on a "
            "login node: `study submit` there, or sbatch and this file); --dry-run only writes"
        )
    done = _run([program, "--parsable", str(path)])
    if done.returncode != 0:
        said = "; ".join(
            line.removeprefix("sbatch: ").removeprefix("error: ")
            for line in done.stderr.strip().splitlines()
        )
        raise ConfigError(
            f"sbatch refused the job ({said}); `sinfo` lists partitions and limits; the script is "
            f"kept: {path}"
        )
    number = done.stdout.strip().partition(";")[0]
    write_json(path.with_name(JOB), {**(read_json(path.with_name(JOB)) or {}), "id": number})
    return number


def states(folder: Path) -> Counter[str]:
    """Count the tasks of one job that have not ended well, by their state."""
    job = read_json(folder / JOB)
    assert job is not None
    ended, number = _ended(folder), job["id"]
    queued = _queue([number]) if len(ended) < job["tasks"] else {}
    found = Counter(
        _state(folder, task, ended, queued, f"{number}_{task}")[0]
        for task in range(1, job["tasks"] + 1)
    )
    del found["finished"]
    return found


def cancel(number: str) -> None:
    """Cancel a job: its tasks give back what they have and end."""
    program = shutil.which("scancel")
    if program is not None:
        _run([program, number])


def tasks(runs: Path) -> list[dict[str, Any]]:
    """List tasks that wait, run or ended badly, one row each, the newest job last.

    Of jobs with the same command and recipes only the last one's bad ends count: it
    took up what the others left.
    """
    jobs = [(path.parent, job) for path, job in _jobs(runs) if job["id"] is not None]
    last = {json.dumps([job["command"], job["recipes"]]): folder for folder, job in jobs}
    open_ = [job["id"] for folder, job in jobs if len(_ended(folder)) < job["tasks"]]
    queued = _queue(open_) if open_ else {}
    rows = []
    for folder, job in jobs:
        ended = _ended(folder)
        for task in range(1, job["tasks"] + 1):
            state, detail = _state(folder, task, ended, queued, f"{job['id']}_{task}")
            is_bad = state in ("failed", "interrupted")
            if state == "finished" or (is_bad and folder not in last.values()):
                continue
            rows.append(
                {
                    "recipe": " ".join(job["recipes"]),
                    "part": "slurm",
                    "arm": job["command"][0],
                    "seed": None,
                    "state": state,
                    "detail": detail,
                }
            )
    return rows


def _state(
    folder: Path,
    task: int,
    ended: dict[int, int],
    queued: dict[str, tuple[str, str]] | str,
    name: str,
) -> tuple[str, str]:
    log = folder / f"{task}.log"
    where = f"job {name}"
    if task in ended:
        how = f"{where} ended with status {ended[task]}, see {log}"
        return ("finished" if ended[task] == 0 else "failed"), how
    if isinstance(queued, str):
        return "unknown", f"{where}: {queued}"
    if name in queued:
        state, detail = queued[name]
        return state, f"{where}, {detail}" + (f", {log}" if state == "running" else "")
    return "interrupted", f"{where} is not in the queue any more (cancelled or killed), see {log}"


def _queue(numbers: Sequence[str]) -> dict[str, tuple[str, str]] | str:
    """Ask which tasks wait or run; return why where that cannot be asked.

    Returns:
        Of each task its state and what more there is to say.
    """
    program = shutil.which("squeue")
    if program is None:
        return "squeue was not found here"
    columns = "%i|%T|%M|%N|%r"
    # Twice a number: squeue treats one job that is gone as an error, several as no rows.
    asked = ",".join([*numbers, numbers[0]])
    words = [program, "--noheader", "--array", f"--jobs={asked}", f"--format={columns}"]
    done = _run(words)
    if done.returncode != 0:
        return f"squeue did not tell ({first_line(RuntimeError(done.stderr))})"
    found = {}
    for line in done.stdout.splitlines():
        name, state, elapsed, node, reason = line.split("|")
        waits = state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED")
        detail = f"waits ({reason})" if waits else f"{state.lower()} on {node}, {elapsed}"
        found[name] = ("queued" if waits else "running", detail)
    return found


def _ended(folder: Path) -> dict[int, int]:
    """Return the exit status of every task that is not to run again."""
    found = {}
    for path in folder.glob("*.ended"):
        text = path.read_text(encoding="utf-8").strip()
        if path.stem.isdecimal() and text.isdecimal():
            found[int(path.stem)] = int(text)
    return found


def _jobs(runs: Path) -> list[tuple[Path, dict[str, Any]]]:
    found = []
    for path in sorted((runs / SLURM).glob(f"*/{JOB}")):
        try:
            job = read_json(path)
        except RecordError:  # nothing but this list depends on it
            continue
        if job is not None:
            found.append((path, job))
    return found


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - our own words
            words, capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", "no answer within a minute")


def _quoted(text: str) -> str:
    """Quote a value in a line of #SBATCH, as sbatch reads them."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
