"""Fuzz one target, guided by coverage: ``python tests/promises/fuzz/run.py loader --seconds 60``.

Needs atheris. An input that breaks a promise is written to ``--findings`` and
ends the run; ``python tests/promises/fuzz/run.py loader FILE`` tries it again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

with atheris.instrument_imports(include=["study.data.forms", "paper.escape", "paper.render"]):
    from targets import SEEDS, TARGETS


def main() -> None:
    """Fuzz for some seconds, or try single files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--findings", type=Path, default=Path("paper/build/fuzz"))
    asked = parser.parse_args()
    target = TARGETS[asked.target]
    if asked.files:
        for name in asked.files:
            target(Path(name).read_bytes())
        return
    asked.findings.mkdir(parents=True, exist_ok=True)
    corpus = Path(tempfile.mkdtemp())
    for number, seed in enumerate(SEEDS[asked.target]):
        (corpus / str(number)).write_bytes(seed)
    limits = (f"-max_total_time={asked.seconds}", f"-seed={asked.seed}", "-timeout=20")
    output = (f"-artifact_prefix={asked.findings}/{asked.target}-", "-print_final_stats=1")
    size = ("-max_len=4096", "-rss_limit_mb=4096", "-verbosity=0")
    atheris.Setup([sys.argv[0], str(corpus), *limits, *output, *size], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
