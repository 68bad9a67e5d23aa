"""Jobs that run in real worker processes, with stand-ins for model and training."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.cli.options import job_place
from study.config.recipe import load_recipe
from study.errors import ConfigError, DataError, RecordError, StoppedError, StudyError
from study.model.jobs import Job
from study.workers import devices, exchange
from study.workers.devices import Slot, cuda_devices, plan_slots
from study.workers.jobs import run_jobs
from study.workers.launch import check_shares
from study.workers.mendable import mendable
from study.workers.progress import open_display

WORK = """
import os
import signal
import sys
import time

import study.errors


def open_workbench(recipe, device, report):
    report(0, 1, "opened")
    return [recipe.name, device, os.getpid()]


def describe(workbench, report):
    return [*workbench, os.getpid(), os.environ.get("OMP_NUM_THREADS"),
            os.environ.get("CUDA_VISIBLE_DEVICES")]


def tell(workbench, report):
    torch = sys.modules.get("torch")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return (os.getpid(), os.getppid(), torch and torch.get_num_threads(),
            os.environ.get("OMP_NUM_THREADS"), os.environ.get("SET_LATER"),
            signal.SIGUSR1 in blocked)


def refuse(workbench, report):
    raise study.errors.DataError("line 3 is empty")


def run_out_of_time(workbench, report):
    raise study.errors.StoppedError("told")


def fill(workbench, report):
    raise OSError(28, "No space left on device", "journal.log")


def fail(workbench, report):
    return {}["nothing"]


def die(workbench, report):
    os.kill(os.getpid(), 9)


def die_once(workbench, report):
    if is_first():
        os.kill(os.getpid(), 9)
    return os.getpid()


def lose_the_device_once(workbench, report):
    if is_first():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\\nCompile with")
    return os.getpid()


def is_first():
    path = os.environ["FIRST_WORKER"]
    with open(path, "r+" if os.path.exists(path) else "w+") as file:
        first = not file.read()
        file.write(str(os.getpid()) if first else "")
    return first


def rest(workbench, report):
    print("resting", os.getpid(), flush=True)
    report(1, 2, "resting")
    time.sleep(60)
"""

INTERRUPTED = """
import sys

import work

from study.cli.options import job_place
from study.config.recipe import load_recipe
from study.model.jobs import Job
from study.workers import jobs
from study.workers.devices import Slot
from study.workers.launch import check_shares

if __name__ == "__main__":
    jobs.PRELOADED = ()  # these train nothing
    recipe = load_recipe("tiny-llama")
    todo = [Job(name=str(n), recipe=recipe, kind="work:rest", given={}) for n in range(2)]
    try:
        jobs.run_jobs(todo, slots=[Slot(device="cpu")] * 2, open_workbench=work.open_workbench)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Return a module that worker processes can import too."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "work.py").write_text(WORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        import work

        yield work


def todo(work, *functions, recipe="tiny-llama"):
    return [
        Job(name=f"job-{n}", recipe=load_recipe(recipe), kind=f"work:{name}", given={})
        for n, name in enumerate(functions)
    ]


def run(work, planned, *, n_workers=1, **environment):
    slots = [Slot(device="cpu", environment=environment)] * n_workers
    return run_jobs(planned, slots=slots, quiet=True, open_workbench=work.open_workbench)


def test_results_come_in_the_order_of_the_jobs(work):
    names = ["tiny-llama", "tiny-smollm2", "tiny-llama"]
    planned = [todo(work, "describe", recipe=name)[0] for name in names]

    assert [result[0] for result in run(work, planned)] == names


def test_a_worker_keeps_its_workbench(work):
    results = run(work, todo(work, *["describe"] * 3))

    assert len({opener for _, _, opener, *_ in results}) == 1


def test_workers_prefer_their_own_recipe_then_one_that_no_other_has(work):
    llama, smollm2 = load_recipe("tiny-llama"), load_recipe("tiny-smollm2")
    planned = [todo(work, "describe", recipe=name)[0] for name in ("tiny-llama", "tiny-smollm2")]
    new, on_llama, on_smollm2 = (SimpleNamespace(recipe=r) for r in (None, llama, smollm2))

    def choose(worker, *others):
        return exchange._choose(planned, [0, 1], worker, [worker, *others])

    assert choose(on_smollm2, on_llama) == 1
    assert choose(new, on_llama) == 1
    assert choose(new, on_smollm2) == 0
    assert choose(new, on_llama, on_smollm2) == 0
    assert exchange._choose(planned, [1], on_llama, [on_llama, on_smollm2]) == 1


def test_a_worker_sees_its_threads_and_its_gpu_and_is_not_this_process(work):
    (result,) = run(work, todo(work, "describe"), CUDA_VISIBLE_DEVICES="7")

    _, device, opener, worker, threads, gpu = result
    assert (device, threads, gpu) == ("cpu", "1", "7")
    assert opener == worker != os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every worker imports by itself")
def test_workers_on_the_cpu_import_once_and_differ_in_what_is_set(work, monkeypatch):
    workers = []
    for threads, value in ((2, "old"), (3, "new"), (3, None)):
        monkeypatch.delenv("SET_LATER", raising=False)
        if value:
            monkeypatch.setenv("SET_LATER", value)
        recipe = load_recipe("tiny-llama").override([f"training.threads={threads}"])
        workers += run(work, [Job(name="tell", recipe=recipe, kind="work:tell", given={})])

    pids, imported_by, threads, variables, later, take_notice = zip(*workers, strict=True)
    assert len(set(pids)) == 3
    assert len(set(imported_by)) == 1
    assert imported_by[0] not in (os.getpid(), *pids)
    assert (threads, variables) == ((2, 3, 3), ("2", "3", "3"))
    assert later == ("old", "new", None)
    assert all(take_notice)


def test_a_worker_on_a_gpu_imports_torch_after_it_knows_its_gpu(work):
    planned = todo(work, "tell")
    slots = [Slot(device="cuda", environment={"CUDA_VISIBLE_DEVICES": "0"})]
    ((_, parent, threads, *_),) = run_jobs(
        planned, slots=slots, quiet=True, open_workbench=work.open_workbench
    )

    assert parent == os.getpid()
    assert threads is None


def test_once_time_runs_out_nobody_begins_another_job(work, capfd):
    planned = todo(work, "run_out_of_time", "describe")
    with pytest.raises(StoppedError):
        run_jobs(planned, slots=[Slot(device="cpu")], open_workbench=work.open_workbench)

    shown = capfd.readouterr().err
    assert "job-0: stopped, because time runs out" in shown
    assert "job-1" not in shown


def test_an_error_of_the_study_arrives_as_itself_and_the_others_finish(work, capfd):
    planned = todo(work, "refuse", "describe")
    with pytest.raises(DataError, match=r"^line 3 is empty$"):
        run_jobs(planned, slots=[Slot(device="cpu")], open_workbench=work.open_workbench)

    shown = capfd.readouterr().err
    assert "job-0: failed: line 3 is empty" in shown
    assert "job-1: done" in shown


def test_a_full_disk_is_one_message(work):
    with pytest.raises(RecordError, match=r"^cannot use journal\.log: No space left .*--runs"):
        run(work, todo(work, "fill"))


def test_a_bug_arrives_with_its_traceback(work):
    with pytest.raises(RuntimeError, match=r"(?s)job-0 failed.*work\.py.*KeyError: 'nothing'"):
        run(work, todo(work, "fail"))


def test_a_job_that_kills_two_workers_is_one_message_and_its_slot_goes_on(work, capfd):
    planned = todo(work, "die", "describe")
    with pytest.raises(StudyError, match=r"job-0 failed 2 times: .* signal 9; .*memory.*goes on"):
        run_jobs(planned, slots=[Slot(device="cpu")], open_workbench=work.open_workbench)

    shown = capfd.readouterr().err
    assert "job-0: the worker ended by signal 9; a fresh worker tries once more" in shown
    assert "job-1: done" in shown


@pytest.mark.parametrize("how", ["die_once", "lose_the_device_once"])
def test_a_lost_worker_is_replaced_by_a_fresh_process(work, monkeypatch, tmp_path, how):
    monkeypatch.setenv("FIRST_WORKER", str(tmp_path / "first"))
    (result,) = run(work, todo(work, how))

    assert result != int((tmp_path / "first").read_text())


def test_a_device_that_fails_twice_is_named(work, monkeypatch):
    monkeypatch.setenv("FIRST_WORKER", "/dev/null")

    with pytest.raises(StudyError, match="job-0 failed 2 times: its device failed: RuntimeError"):
        run(work, todo(work, "lose_the_device_once"))


def test_workers_end_by_themselves_when_their_parent_is_killed(work, tmp_path):
    script = tmp_path / "interrupted.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        pids = [int(process.stdout.readline().split()[1]) for _ in range(2)]
        began = time.monotonic()
        process.kill()
        process.stdout.read()  # until the last of them has let go of it
        took_s = time.monotonic() - began

    assert took_s < 5
    for pid in pids:
        assert not is_running(pid)


def test_no_jobs_need_no_workers():
    assert run_jobs([], slots=[Slot(device="cpu")]) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_parent_and_workers_within_seconds(work, tmp_path, number):
    script = tmp_path / "interrupted.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        pids = [int(process.stdout.readline().split()[1]) for _ in range(2)]
        began = time.monotonic()
        process.send_signal(number)
        code = process.wait(20)

    assert code == 130
    assert time.monotonic() - began < 5
    for pid in pids:
        assert not is_running(pid)


def is_running(pid):
    """Tell whether a process runs; what nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_fill_the_cores_with_the_recipes_threads(monkeypatch):
    monkeypatch.setattr(devices, "_n_cores", lambda: 8)
    one = load_recipe("tiny-llama")
    three = one.override(["training.threads=3"])
    free = one.override(["training.threads=0"])

    def n_slots(*recipes, workers=None):
        return len(plan_slots(recipes, device="cpu", workers=workers))

    assert n_slots(one) == 8
    assert n_slots(one, three) == 2
    assert n_slots(one, free) == 1
    assert n_slots(one, workers=3) == 3


@pytest.mark.parametrize(
    ("threads", "workers", "own", "share"),
    [
        (0, 2, None, "2"),
        (0, 8, None, "1"),
        (0, 1, None, None),
        (1, 2, None, None),
        (0, 2, "3", None),
    ],
)
def test_workers_share_the_cores_unless_somebody_says_otherwise(
    monkeypatch, threads, workers, own, share
):
    monkeypatch.setattr("study.workers.devices._n_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    recipe = load_recipe("tiny-llama").override([f"training.threads={threads}"])
    slots = plan_slots([recipe], device="cpu", workers=workers)

    assert {slot.environment.get("OMP_NUM_THREADS") for slot in slots} == {share}


def test_each_gpu_gets_one_worker_that_sees_no_other(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    recipe = [load_recipe("tiny-llama")]

    def seen(device, workers=None):
        slots = plan_slots(recipe, device=device, workers=workers)
        return [(slot.device, slot.environment["CUDA_VISIBLE_DEVICES"]) for slot in slots]

    assert seen("auto") == seen("cuda") == [("cuda", "2"), ("cuda", "GPU-5")]
    assert seen("cuda:1") == [("cuda", "GPU-5")]
    assert [gpu for _, gpu in seen("cuda", 3)] == ["2", "GPU-5", "2"]
    assert seen("cpu", 1) == [("cpu", "")]


@pytest.mark.parametrize(
    ("value", "found"), [("", []), ("-1", []), ("0", ["0"]), ("1, 0", ["1", "0"])]
)
def test_visible_devices_are_what_the_environment_says(monkeypatch, value, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)

    assert cuda_devices() == found


@pytest.mark.parametrize(
    ("device", "visible", "message"),
    [
        ("cuda", "", "no CUDA device here"),
        ("cuda:1", "", "no CUDA device here"),
        ("cuda:4", "0,1", "GPUs are 0 to 1"),
        ("cuda:x", "0", "GPUs are 0 to 0"),
        ("tpu", "0", "may be auto, cpu, cuda or cuda:N"),
        ("cpu:0", "0", "may be auto, cpu, cuda or cuda:N"),
    ],
)
def test_devices_that_are_not_there_are_refused(monkeypatch, device, visible, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    with pytest.raises(ConfigError, match=message):
        plan_slots([load_recipe("tiny-llama")], device=device, workers=None)


def test_plain_lines_are_few():
    stream = io.StringIO()
    with open_display(["a", "b"], quiet=False, stream=stream) as display:
        display.start(1)
        for step in range(1000):
            display.update(1, step, 1000, "step")
        display.finish(1, "done")

    assert stream.getvalue() == "[2/2] b: begins\n[2/2] b: done\n"


def test_bars_are_drawn_on_a_terminal_and_taken_away():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with open_display(["a", "b"], quiet=False, stream=stream) as display:
        display.start(0)
        display.update(0, 12, 40, "step 60")
        display.finish(0, "done")
        display.start(1)

    assert "a" in stream.getvalue()
    assert "12/40" in stream.getvalue()
    assert "a: done" in stream.getvalue()


def test_quiet_shows_nothing():
    stream = io.StringIO()
    with open_display(["a"], quiet=True, stream=stream) as display:
        display.start(0)
        display.finish(0, "done")

    assert stream.getvalue() == ""


def test_a_limit_of_processes_is_told_and_not_hidden_by_the_end(work, monkeypatch):
    def refuse(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", refuse)
    with pytest.raises(BlockingIOError) as caught:
        run_jobs(
            todo(work, "describe"),
            slots=[Slot(device="cpu")],
            quiet=True,
            open_workbench=work.open_workbench,
        )

    assert "Resource temporarily unavailable); end other programs" in mendable(caught.value)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(24, "Too many open files"), "no further process, memory or open file (Too many"),
        (RuntimeError("can't start new thread"), "give fewer --workers"),
        (OSError(28, "No space left on device", "a.log"), "cannot use a.log: No space left"),
        (UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates"), "'caf\\udce9' is not UTF-8"),
        (UnicodeEncodeError("ascii", "café", 3, 4, "ordinal not in range"), None),
        (RuntimeError("anything else"), None),
    ],
    ids=str,
)
def test_what_a_user_can_mend_is_told_from_what_nobody_can(error, words):
    told = mendable(error)

    assert told is None if words is None else words in told


def test_updates_of_fewer_pairs_than_processes_are_refused(monkeypatch) -> None:
    recipe = load_recipe("tiny-llama")
    monkeypatch.setenv("WORLD_SIZE", "16")
    check_shares([recipe])
    monkeypatch.setenv("WORLD_SIZE", "17")

    with pytest.raises(ConfigError, match=r"tiny-llama has updates of 16 pairs.* 17 processes"):
        job_place([recipe], device="cpu", workers=None, quiet=True)


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("rya", r"--on is 'rya' \(did you mean 'ray'\?\); jobs run on local, ray, slurm, where"),
        ("local:3", r"--on is 'local:3'"),
    ],
)
def test_a_place_without_a_name_is_refused(on, message):
    with pytest.raises(ConfigError, match=message):
        job_place([load_recipe("tiny-llama")], "cpu", None, quiet=True, on=on)


def test_a_launch_trains_where_it_is(monkeypatch):
    monkeypatch.setattr("study.workers.places.n_processes", lambda: 2)
    place = job_place([load_recipe("tiny-llama")], "cpu", None, quiet=True)

    assert place.sharing == 1
    with pytest.raises(ConfigError, match=r"launcher with 2 processes.*leave --on ray out"):
        job_place([load_recipe("tiny-llama")], "cpu", None, quiet=True, on="ray")


def test_a_job_may_lose_workers_as_often_as_it_comes_farther():
    said = [
        *[("progress", (1, 8, "")), ("died", -9), ("progress", (2, 8, "")), ("died", -9)],
        *[("progress", (2, 8, "")), ("died", -9)],
    ]
    job = Job(name="job", recipe=load_recipe("tiny-llama"), kind="time:sleep", given={})
    worker = SimpleNamespace(job=0, receive=lambda: said.pop(0))
    display = SimpleNamespace(update=lambda *_: None, finish=lambda *_: None)
    books = exchange._Books([job])
    books.pending.clear()
    for _ in range(6):
        worker.job = 0
        assert books.failures == []
        exchange._receive(books, worker, display)

    assert "job failed 2 times" in str(books.failures[0])


def test_a_missing_data_file_is_said_before_a_worker_starts(monkeypatch, tmp_path):
    recipe = load_recipe("tiny-llama").override([f"data.name={tmp_path / 'gone.jsonl'}"])
    started = []
    monkeypatch.setattr("study.workers.jobs.run_jobs", lambda jobs, **_: started.extend(jobs))
    place = job_place([recipe], "cpu", 1, quiet=True)

    with pytest.raises(DataError, match=r"there is no file or folder .*gone\.jsonl"):
        place.run_jobs([Job(name="sft", recipe=recipe, kind="study.errors:require", given={})])
    assert started == []
