"""A notice that time runs out: checkpoint between two steps, clean end, exact continuation."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from study.errors import StoppedError
from study.model.workbench import open_workbench
from study.records import notice
from study.records.files import read_jsonl
from study.records.layout import STEPS
from study.run.checkpoints import TRAINER
from study.run.train import train_run

ORPO = {"learning_rate": 3e-3, "beta": 0.2}
TIMED = ("seconds", "peak_memory_bytes")


def train(workbench, folder, on_validation=None):
    return train_run(
        workbench, arm="orpo", settings=ORPO, seed=1, folder=folder, on_validation=on_validation
    )


def trained(workbench):
    model = workbench.base.model
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def rows_of(folder):
    rows = read_jsonl(folder / STEPS)
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


@pytest.mark.parametrize("log_every_steps", [2, 3])
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_adapter(
    workbench, tmp_path, monkeypatch, log_every_steps
):
    """It is told after step 3, where no checkpoint is due and a log may be or not."""
    training = dataclasses.replace(
        workbench.recipe.training, log_every_steps=log_every_steps, checkpoint_every_steps=100
    )
    workbench.recipe = dataclasses.replace(workbench.recipe, training=training)
    train(workbench, tmp_path / "whole")
    whole = trained(workbench)
    asked = iter([False, False, False, True, True])  # once before the first step
    monkeypatch.setattr("study.run.watch.is_noticed", lambda: next(asked))
    monkeypatch.setattr("study.run.train.heed", iter_heed(asked=[False, True]))
    with pytest.raises(StoppedError):
        train(workbench, tmp_path / "cut")
    checkpoints = [path.name for path in (tmp_path / "cut" / TRAINER).iterdir()]
    monkeypatch.undo()
    later = open_workbench(workbench.recipe, device="cpu")
    train(later, tmp_path / "cut")

    assert checkpoints == ["checkpoint-4"]
    assert all((trained(later)[name] == whole[name]).all() for name in whole)
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")


def iter_heed(asked):
    answers = iter(asked)

    def heed():
        if next(answers):
            raise StoppedError("told")

    return heed


def test_a_run_that_is_at_its_last_step_finishes(workbench, tmp_path, monkeypatch):
    n_steps = workbench.recipe.training.max_steps
    asked = iter([False] * (n_steps - 1) + [True])
    monkeypatch.setattr("study.run.watch.is_noticed", lambda: next(asked))

    assert train(workbench, tmp_path / "run").status == "ok"


def test_the_signal_is_noticed_and_kills_nothing():
    with notice.noticing():
        assert not notice.is_noticed()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert any(notice._told.wait(0.1) for _ in range(50))  # a handler runs between two
        with pytest.raises(StoppedError, match="goes on from there"):
            notice.heed()
    assert not notice.is_noticed()
    assert "notice" not in {thread.name for thread in threading.enumerate()}


def test_a_pause_is_no_notice():
    """SIGSTOP and SIGCONT, as Ctrl-Z and `fg` or `scontrol suspend` send them."""
    script = (
        "from study.records.notice import is_noticed, noticing\n"
        "with noticing():\n"
        "    print('begun', flush=True)\n"
        "    input()\n"
        "    print(is_noticed())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as paused:
        assert paused.stdout.readline() == "begun\n"
        for _ in range(2):
            time.sleep(0.2)
            paused.send_signal(signal.SIGSTOP)
            time.sleep(2 * notice.LOOK_EVERY_S)
            paused.send_signal(signal.SIGCONT)
        told, _ = paused.communicate("\n", timeout=30)

    assert told == "False\n"


def test_a_block_that_nobody_tells_leaves_everything_as_it_was():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with notice.noticing():
        pass

    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert not notice.is_noticed()


def test_workers_are_told_also_those_that_begin_later(tmp_path):
    script = """
        import multiprocessing, os, signal, time
        from study.records.notice import is_noticed, noticing

        def work(pipe):
            while not is_noticed():
                time.sleep(0.02)
            pipe.send("told")

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            with noticing():
                for late in (False, True):
                    ours, theirs = context.Pipe()
                    worker = context.Process(target=work, args=(theirs,))
                    worker.start()
                    if not late:
                        os.kill(os.getpid(), signal.SIGUSR1)
                    assert ours.poll(30)
                    print(ours.recv())
                    worker.join()
                    assert worker.exitcode == 0
    """
    (tmp_path / "told.py").write_text(textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "told.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.split() == ["told", "told"]
