"""Run the command line as one process of a launch, and say what that process held.

``python -m torch.distributed.run --nproc_per_node 2 tests/launched.py NOTES DIE compare …``:
each process writes ``NOTES/<rank>.json``, and is killed when DIE updates are done, 0 for never.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the command, with the notes made on the way."""
    folder, die, *words = sys.argv[1:]
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
    main()
