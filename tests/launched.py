"""Run the command line as one process of a launch, and say what that process held.

``python -m torch.distributed.run --nproc_per_node 2 tests/launched.py NOTES DIE compare …``:
each process writes ``NOTES/<rank>.json``, and is killed when DIE updates are done, 0 for never.
`launch` does the same without starting Python anew, which takes longer than the training.
"""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from servers import free_port

from study.workers.jobs import PRELOADED


def launch(n: int, *words: str) -> tuple[int, str]:
    """Run ``main`` in n forked processes; return an exit status that is not 0, and what they said.

    As a launcher does, the others are ended when one of them dies.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    if n > 1:
        sizes = {"WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), **sizes}
    processes = [context.Process(target=_main, args=(k, environment, words)) for k in range(n)]
    for process in processes:
        process.start()
    while running := [process for process in processes if process.is_alive()]:
        wait([process.sentinel for process in running])
        if any(process.exitcode for process in processes):
            for process in running:
                process.kill()
    said = [path.read_text(encoding="utf-8") for path in Path(words[0]).glob("*.log")]
    codes = [process.exitcode for process in processes if process.exitcode]
    return (codes or [0])[0], "\n".join(said)


def _main(rank: int, environment: dict[str, str], words: Sequence[str]) -> None:
    os.environ |= environment
    if "WORLD_SIZE" in environment:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with (Path(words[0]) / f"{rank}.log").open("w", encoding="utf-8") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    main(words)


def main(arguments: Sequence[str]) -> None:
    """Run the command, with the notes made on the way."""
    folder, die, *words = arguments
    notes: dict[str, Any] = {}
    _note_sharding(notes)
    _die_after(int(die))
    sys.argv = ["study", *words]
    from study.cli.commands import main as study

    try:
        study(standalone_mode=False)
    finally:
        from torch import distributed

        there = distributed.is_available() and distributed.is_initialized()
        notes["processes"] = distributed.get_world_size() if there else 1
        path = Path(folder) / f"{os.environ.get('RANK', '0')}.json"
        path.write_text(json.dumps(notes), encoding="utf-8")


def _note_sharding(notes: dict[str, Any]) -> None:
    from study.model import base, sharding

    def shard(causal: Any, device: Any) -> None:
        notes["bytes_before"] = sharding.bytes_here(causal)
        sharding.shard(causal, device)
        notes["bytes_here"] = sharding.bytes_here(causal)
        notes["shards"] = sum(map(sharding.is_shard, causal.parameters()))

    base.shard = shard


def _die_after(updates: int) -> None:
    from study.run.watch import Watch

    on_step_end = Watch.on_step_end

    def die(self: Watch, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == updates:
            os.kill(os.getpid(), signal.SIGKILL)
        on_step_end(self, args, state, control, **kwargs)

    if updates:
        Watch.on_step_end = die  # type: ignore[method-assign]


if __name__ == "__main__":
    main(sys.argv[1:])
