"""Slurm without Slurm: times, scripts, refusals, and what the queue's words mean."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

import study
from study.cli import main
from study.cli.status import status
from study.config.recipe import load_recipe
from study.errors import ConfigError
from study.model.jobs import Job
from study.records import mounts
from study.workers.on_slurm import words_of
from study.workers.places import Ask
from study.workers.slurm import Wanted, script, seconds_of, write_script

TIMES = {
    "90": 5400,
    "90:30": 5430,
    "4:00:00": 14400,
    "1-12": 129_600,
    "1-12:30": 131_400,
    "2-00:00:01": 172_801,
    "UNLIMITED": None,
}
COMPARE = ("compare", "--recipe", "tiny-llama", "--arm", "sft", "--runs")


@pytest.mark.parametrize("time", TIMES)
def test_times_are_read_as_sbatch_reads_them(time):
    assert seconds_of(time) == TIMES[time]


@pytest.mark.parametrize("time", ["soon", "4h", "1-", ":30", "1:2:3:4"])
def test_other_times_are_refused(time):
    with pytest.raises(ConfigError, match=r"4:00:00 or 1-12"):
        Wanted(time=time)


def test_a_limit_that_leaves_no_time_to_train_is_refused():
    with pytest.raises(ConfigError, match="give at least 5 minutes, or a smaller --notice"):
        Wanted(time="3")


@pytest.fixture
def submit(tmp_path, monkeypatch):
    """Run `study submit --slurm` with a PATH that holds what a test puts there."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr("study.workers.slurm.shutil.which", only_in(programs))

    def run(*words, **files):
        for name, text in files.items():
            (programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (programs / name).chmod(0o755)
        return CliRunner().invoke(main, ["submit", "--slurm", *words])

    return run


def only_in(folder):
    return lambda name: str(folder / name) if (folder / name).exists() else None


def job_of(runs):
    (folder,) = (runs / "slurm").iterdir()
    return folder, json.loads((folder / "job.json").read_text())


def test_a_dry_run_writes_a_script_that_bash_reads(submit, tmp_path):
    runs = tmp_path / "odd 100% 'folder'"
    asked = ("--array", "8%4", "--gpus", "a100:1", "--time", "1-0", "--sbatch=--account=me")
    result = submit(*asked, "--setup", "module load cuda", "--dry-run", "--", *COMPARE, str(runs))
    folder, job = job_of(runs)
    text = (folder / "job.sh").read_text()

    assert result.exit_code == 0, result.output
    assert "nothing was submitted" in result.output
    assert subprocess.run(["bash", "-n", folder / "job.sh"], check=False).returncode == 0
    assert (job["id"], job["tasks"], job["recipes"]) == (None, 8, ["tiny-llama"])
    for line in (
        "#SBATCH --array=1-8%4",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --time=1-0",
        "#SBATCH --account=me",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@120",
        "module load cuda",
    ):
        assert line in text.splitlines()
    assert "odd 100%% 'folder'" in text.partition("--output=")[2].splitlines()[0]
    assert status(runs) == []


def test_tasks_of_a_search_wait_for_each_other(tmp_path):
    given = ["search", "--recipe", "tiny-llama", "--runs", str(tmp_path)]
    CliRunner().invoke(main, ["submit", "--slurm", "--dry-run", "--", *given])
    _, job = job_of(tmp_path)

    assert job["command"] == [*given, "--wait"]


@pytest.mark.parametrize("words", ["compare", "claims", "reproduce article-a", "benchmark"])
def test_commands_that_go_on_where_they_stopped_are_taken(tmp_path, words):
    given = [*words.split(), "--recipe", "tiny-llama", "--runs", str(tmp_path)]
    result = CliRunner().invoke(main, ["submit", "--slurm", "--dry-run", "--", *given])
    _, job = job_of(tmp_path)

    assert result.exit_code == 0
    assert job["command"] == given


REFUSED = {
    "train": "takes search, compare, claims, reproduce, benchmark, not 'train'",
    "comapre": "did you mean 'compare'",
    "compare": "name the recipes with --recipe",
    "compare --recipe tiny-lama": "did you mean",
    "compare --recipe tiny-llama --set training.steps=1": "steps",
    "compare --recipe tiny-llama --fresh": "give --fresh to a command of your own first",
    "compare --recipe tiny-llama --nonsense": "No such option",
    "search --recipe tiny-llama --storage postgresql://me:secret@host/db": "would hold the pass",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_task_could_run_is_refused_before_it_is_submitted(submit, tmp_path, words):
    result = submit("--", *words.split(), sbatch="echo 7; exit 0")

    assert result.exit_code in (1, 2)
    assert REFUSED[words] in result.output.replace("\n", " ")
    assert "secret" not in result.output


def test_a_benchmark_is_one_task(submit, tmp_path):
    result = submit("--array", "2", "--", "benchmark", "--recipe", "tiny-llama")

    assert "leave out --array" in result.output


def test_without_sbatch_the_script_is_kept(submit, tmp_path):
    result = submit("--", *COMPARE, str(tmp_path))
    folder, _ = job_of(tmp_path)

    assert result.exit_code == 1
    assert f"sbatch was not found: {folder / 'job.sh'} is written" in result.output


def test_what_sbatch_says_is_passed_on(submit, tmp_path):
    says = "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1"
    result = submit("--", *COMPARE, str(tmp_path), sbatch=says)

    assert result.exit_code == 1
    assert "sbatch refused the job (invalid partition specified: gpu)" in result.output
    assert status(tmp_path) == []


def test_several_tasks_do_not_share_a_folder_whose_locks_end_at_the_host(
    submit, tmp_path, monkeypatch
):
    table = tmp_path / "mountinfo"
    table.write_text("22 1 0:1 / / rw - nfs s:/a rw,vers=3,nolock,local_lock=all\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)
    several = submit("--array", "2", "--", *COMPARE, str(tmp_path / "runs"))
    alone = submit("--dry-run", "--", *COMPARE, str(tmp_path / "runs"))

    assert several.exit_code == 1
    assert "hosts could write the same records at once" in several.output
    assert alone.exit_code == 0
    assert "if tasks run on other hosts" in alone.output


QUEUE = """\
echo '7_1|RUNNING|1:02|node3|None'
echo '7_2|PENDING|0:00||Resources'
echo '7_3|REQUEUED|0:00||BeginTime'
"""


def test_the_queue_and_the_ends_of_tasks_make_the_status(submit, tmp_path):
    result = submit(
        "--array", "6", "--", *COMPARE, str(tmp_path), sbatch="echo '7;cluster'", squeue=QUEUE
    )
    folder, job = job_of(tmp_path)
    (folder / "4.ended").write_text("0\n")
    (folder / "5.ended").write_text("1\n")
    rows = [row for row in status(tmp_path) if row["part"] == "slurm"]

    assert result.exit_code == 0, result.output
    assert "submitted job 7 with 6 tasks" in result.output
    assert job["id"] == "7"
    states = ["running", "queued", "queued", "failed", "interrupted"]
    assert [row["state"] for row in rows] == states
    assert rows[0]["detail"] == f"job 7_1, running on node3, 1:02, {folder}/1.log"
    assert rows[1]["detail"] == "job 7_2, waits (Resources)"
    assert f"job 7_5 ended with status 1, see {folder}/5.log" in rows[3]["detail"]
    assert {row["recipe"] for row in rows} == {"tiny-llama"}
    assert {row["arm"] for row in rows} == {"compare"}


def test_a_later_job_takes_up_what_an_earlier_one_left(submit, tmp_path):
    for _ in range(2):
        submit("--", *COMPARE, str(tmp_path), sbatch="echo $RANDOM", squeue="true")
    first, last = sorted((tmp_path / "slurm").iterdir())
    rows = [row for row in status(tmp_path) if row["part"] == "slurm"]

    assert [row["state"] for row in rows] == ["interrupted"]
    assert str(last) in rows[0]["detail"]
    assert first != last


@pytest.mark.parametrize(
    ("files", "said"),
    [({}, "squeue was not found here"), ({"squeue": "echo down >&2; exit 1"}, "(down)")],
)
def test_a_queue_that_does_not_answer_is_said_and_hides_nothing_else(submit, tmp_path, files, said):
    submit("--", *COMPARE, str(tmp_path), sbatch="echo 7", **files)
    (row,) = [row for row in status(tmp_path) if row["part"] == "slurm"]

    assert row["state"] == "unknown"
    assert said in row["detail"]


COMMAND = """\
import signal, sys, time
{how}
print("begun", flush=True)
time.sleep(60)
"""
HANDLER = "signal.signal(signal.SIGUSR1, {})"
ENDS = {
    "stopped by notice": (HANDLER.format("lambda *_: sys.exit(75)"), "requeue 7_3", None),
    "killed by notice": ("", "requeue 7_3", None),
    "deaf": (HANDLER.format("signal.SIG_IGN"), "requeue 7_3", None),
    "done in time": (HANDLER.format("lambda *_: sys.exit(0)"), None, "0"),
}


SLOW = 'kill() { builtin kill "$@" && { [[ $1 != -USR1 ]] || sleep 1; }; }'
"""A shell in which the command has ended before its notice is dealt with."""


@pytest.mark.parametrize(
    ("how", "setup"), [*((how, ()) for how in ENDS), ("done in time", (SLOW,))]
)
def test_a_task_is_put_back_unless_it_is_done(tmp_path, how, setup):
    """The script itself, under a shell, with a command that takes the notice in its own way."""
    handler, told, ended = ENDS[how]
    folder, programs = tmp_path / "job", tmp_path / "programs"
    for path in (folder, programs):
        path.mkdir()
    (programs / "scontrol").write_text(f'#!/bin/bash\necho "$@" >"{folder}/told"\n')
    (programs / "scontrol").chmod(0o755)
    text = script(folder, ["compare"], Wanted(notice_s=31, setup=setup))
    lines = text.replace(f"{sys.executable} -m study.cli compare", f"{sys.executable} command.py")
    (folder / "job.sh").write_text(lines)
    (folder / "command.py").write_text(COMMAND.format(how=handler))
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    task = subprocess.Popen(
        ["bash", "job.sh"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    while task.stdout.readline() != "begun\n":
        assert task.poll() is None
    task.send_signal(signal.SIGUSR1)
    began = time.monotonic()
    task.stdout.close()
    task.wait(30)

    assert time.monotonic() - began < 20
    asked = folder / "told"
    assert (asked.read_text().strip() if asked.exists() else None) == told
    left = folder / "3.ended"
    assert (left.read_text().strip() if left.exists() else None) == ended


def test_scripts_of_one_second_have_folders_of_their_own(tmp_path):
    paths = {write_script(tmp_path, ["compare"], Wanted(), ["a"]) for _ in range(3)}

    assert len(paths) == 3


ALL_END = """\
folder=$(dirname "${@: -1}")
for task in 1 2; do echo %s >"$folder/$task.ended"; done
echo 9
"""


@pytest.fixture
def on_slurm(tmp_path, monkeypatch):
    """Run a command with `--on slurm`; what trains is left out."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setattr("study.workers.on_slurm.shutil.which", only_in(programs))
    monkeypatch.setattr("study.workers.on_slurm.LOOK_EVERY_S", 0.05)

    def compared(recipes, *, run_jobs, **_):
        about = {"recipe": recipes[0], "kind": "builtins:print", "given": {}}
        jobs = [Job(name=name, **about) for name in ("one", "two")]
        assert run_jobs([]) == []
        assert run_jobs(jobs) == [None, None]
        return []

    light = SimpleNamespace(compare=compared)
    monkeypatch.setitem(sys.modules, "study.compare", light)
    monkeypatch.setattr(study, "compare", light, raising=False)

    def run(*words, **files):
        for name in ("sbatch", "squeue", "scancel"):
            (programs / name).write_text(f"#!/bin/bash\n{files.get(name, 'true')}\n")
            (programs / name).chmod(0o755)
        return CliRunner().invoke(main, [*words, "--runs", str(tmp_path / "runs"), "--on", "slurm"])

    return run


def test_a_command_on_slurm_submits_itself_and_waits(on_slurm, tmp_path):
    result = on_slurm("compare", "--recipe", "tiny-llama", "--quiet", sbatch=ALL_END % 0)
    _, job = job_of(tmp_path / "runs")

    assert result.exit_code == 0, result.output
    assert job["tasks"] == 2
    assert job["command"] == ["compare", "--recipe", "tiny-llama", "--runs", str(tmp_path / "runs")]


def test_tasks_that_fail_are_said_with_their_logs(on_slurm, tmp_path):
    result = on_slurm("compare", "--recipe", "tiny-llama", sbatch=ALL_END % 1)
    folder, _ = job_of(tmp_path / "runs")

    assert result.exit_code == 1
    assert "2 of 2 tasks of Slurm job 9 did not end well" in result.output
    assert str(folder) in result.output


def test_tasks_are_cancelled_with_the_command(on_slurm, tmp_path, monkeypatch):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr("study.workers.on_slurm.heed", interrupt)
    waits = "echo '9_1|PENDING|0:00||Priority'; echo '9_2|RUNNING|0:01|a|None'"
    told = {"sbatch": "echo 9", "squeue": waits, "scancel": f'echo "$@" >"{tmp_path}/cancelled"'}
    result = on_slurm("compare", "--recipe", "tiny-llama", **told)

    assert result.exit_code == 130
    assert (tmp_path / "cancelled").read_text().strip() == "9"


WORDS = {
    "search --on slurm --workers 4": ["search", "--recipe", "tiny-llama", "--wait"],
    "compare --on=slurm --workers=4 --fresh --seeds 5": (
        ["compare", "--seeds", "5", "--recipe", "tiny-llama"]
    ),
    "compare --recipe=tiny-llama --json": ["compare", "--recipe=tiny-llama"],
}


@pytest.mark.parametrize("words", WORDS)
def test_tasks_get_the_command_without_what_is_for_it_alone(words):
    ask = Ask(
        recipes=[load_recipe("tiny-llama")],
        device="cpu",
        workers=None,
        quiet=True,
        words=words.split(),
    )

    assert words_of(ask) == WORDS[words]


@pytest.mark.parametrize(
    "words", [["--storage", "mysql://a:secret@b/c"], ["--storage=mysql://a:secret@b/c"]]
)
def test_a_password_does_not_get_into_a_script(words):
    ask = Ask(recipes=[], device="cpu", workers=None, quiet=True, words=["search", *words])
    with pytest.raises(ConfigError, match="would hold the password"):
        words_of(ask)
