"""Jobs as batch jobs: the command submits itself, waits, and finds the records made.

What a task is given is the command, not a job: tasks divide the work by the locks and
leases of the folder of records, as any commands that share one. Time limits,
partitions and GPUs are those of sbatch's environment (SBATCH_TIMELIMIT and so on).
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from study.errors import ConfigError, StudyError, require
from study.model.jobs import Job
from study.records.mounts import reach_of
from study.records.notice import heed
from study.workers import slurm
from study.workers.places import Ask, Place
from study.workers.progress import open_display

MOST_TASKS = 8
"""Tasks of an array unless ``--workers`` says how many."""


LOOK_EVERY_S = 5.0


OWN = ("--on", "--workers")
"""Options with a value that are for the command alone, not for its tasks."""


FLAGS = ("--fresh", "--json", "--quiet", "--wait")


UNDER_WAY = frozenset({"queued", "running", "unknown"})


def open_slurm(ask: Ask) -> Place:
    """Return a Slurm cluster.

    Raises:
        ConfigError: it cannot be reached from here, or tasks cannot share the records.
    """
    for program in ("sbatch", "squeue", "scancel"):
        require(
            shutil.which(program) is not None,
            f"{program} was not found; run this on a login node of the cluster, or without "
            "--on slurm",
        )
    require(not ask.address, f"--on is slurm:{ask.address}; it is slurm alone")
    reach = reach_of(ask.runs)
    if reach is not None and reach.known == "one host":
        raise ConfigError(str(reach))
    return _Cluster(ask=ask, words=words_of(ask))


def words_of(ask: Ask) -> list[str]:
    """Return the command that every task runs.

    Raises:
        ConfigError: it holds a password, which the batch script would.
    """
    from study.search.database import BETTER, has_password

    words, given = [], iter(ask.words)
    for word in given:
        option, is_joined, value = word.partition("=")
        if option in OWN:
            if not is_joined:
                next(given, None)
        elif word not in FLAGS:
            words.append(word)
            require(
                not has_password(value if option == "--storage" else word),
                f"the batch script would hold the password that is in --storage: {BETTER}",
            )
    if not any(word.partition("=")[0] == "--recipe" for word in words):
        words += [word for recipe in ask.recipes for word in ("--recipe", recipe.name)]
    return [*words, "--wait"] if words[0] == "search" else words


@dataclass(frozen=True, kw_only=True)
class _Cluster:
    ask: Ask
    words: Sequence[str]

    @property
    def sharing(self) -> int:
        """Arms are not shared unless that is asked for."""
        return self.ask.workers or 1

    def run_jobs(self, jobs: Sequence[Job]) -> list[Any]:
        """Submit the command and wait until its tasks have ended; jobs leave only records."""
        if not jobs:
            return []
        wanted = slurm.Wanted(tasks=self.ask.workers or min(len(jobs), MOST_TASKS))
        names = list(dict.fromkeys(job.recipe.name for job in jobs))
        path = slurm.write_script(self.ask.runs, self.words, wanted, names)
        number = slurm.submit(path)
        with open_display([f"Slurm job {number}"], quiet=self.ask.quiet) as display:
            display.start(0)
            try:
                while UNDER_WAY & (left := slurm.states(path.parent)).keys():
                    heed()
                    display.update(0, wanted.tasks - left.total(), wanted.tasks, _listed(left))
                    time.sleep(LOOK_EVERY_S)
            except BaseException:
                slurm.cancel(number)
                raise
            bad = left.total()
            display.finish(0, f"{bad} of {wanted.tasks} tasks failed" if bad else "done")
        if bad:
            raise StudyError(
                f"{bad} of {wanted.tasks} tasks of Slurm job {number} did not end well; their logs "
                f"are in {path.parent}; what was finished is kept, the same command goes on"
            )
        return [None] * len(jobs)


def _listed(states: Counter[str]) -> str:
    return ", ".join(f"{n} {state}" for state, n in states.items())
