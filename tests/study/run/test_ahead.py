"""Micro-batches are laid out while a device computes the one before."""

import threading

import pytest
import torch

from study.run.ahead import Ahead, computes_aside
from study.run.train import train_run

ORPO = {"learning_rate": 3e-3, "beta": 0.2}


class StandIn:
    """A device that does not end its work before the next micro-batch is laid out."""

    def __init__(self, n_parts: int) -> None:
        self.laid_out = [threading.Event() for _ in range(n_parts)]

    def lay_out(self, number: int) -> str:
        self.laid_out[number].set()
        return f"batch {number}"

    def compute(self, number: int) -> bool:
        return self.laid_out[number].wait(timeout=10)


def test_the_next_micro_batch_is_ready_before_the_device_is() -> None:
    n_parts = 4
    device = StandIn(n_parts)
    ahead = Ahead(device.lay_out, meanwhile=True)
    taken, was_ready = [], []
    for part in range(n_parts):
        following = part + 1 if part + 1 < n_parts else None
        taken.append(ahead.take(part, following=following))
        if following is not None:
            was_ready.append(device.compute(following))

    assert taken == [f"batch {n}" for n in range(n_parts)]
    assert was_ready == [True] * (n_parts - 1)


def test_on_a_cpu_nothing_is_laid_out_before_its_turn() -> None:
    made = []
    ahead = Ahead(
        lambda item: made.append(item) or item, meanwhile=computes_aside(torch.device("cpu"))
    )

    assert ahead.take(1, following=2) == 1
    assert made == [1]
    assert computes_aside(torch.device("cuda"))


def test_another_item_than_was_expected_is_made_at_once() -> None:
    ahead = Ahead(lambda item: item * 10, meanwhile=True)

    assert [ahead.take(1, following=2), ahead.take(7, following=None)] == [10, 70]


def test_an_error_is_raised_where_its_item_is_taken() -> None:
    ahead = Ahead(lambda item: 1 // item, meanwhile=True)
    ahead.take(1, following=0)

    with pytest.raises(ZeroDivisionError):
        ahead.take(0, following=None)


def test_a_run_lays_each_micro_batch_out_once_and_ahead(workbench, monkeypatch) -> None:
    """The first is the only one for which the device waits; the adapter is the same."""
    found = []
    for aside in (False, True):
        threads = []
        pack = _watched_pack(threads)
        with monkeypatch.context() as patch:
            patch.setattr("study.run.trainer.computes_aside", lambda device, aside=aside: aside)
            patch.setattr("study.run.batches.pack", pack)
            train_run(workbench, arm="orpo", settings=ORPO, seed=1, folder=None)
        adapter = [p.detach().clone() for p in workbench.base.model.parameters() if p.requires_grad]
        found.append((threads, adapter))
    (alone, expected), (ahead, adapter) = found

    assert all(map(torch.equal, adapter, expected))
    assert len(ahead) == len(alone) >= workbench.recipe.training.max_steps
    main = threading.main_thread().name
    assert [name == main for name in alone] == [True] * len(alone)
    assert [name == main for name in ahead] == [True] + [False] * (len(alone) - 1)


def _watched_pack(threads):
    from study.engine.packing import pack

    def watched(pairs, **options):
        threads.append(threading.current_thread().name)
        return pack(pairs, **options)

    return watched
