"""Memory now, and its peak since a run began, on any device."""

import contextlib
import resource
import sys
from pathlib import Path

import torch


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new measurement, where the device or the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # Linux alone; elsewhere the process's peak counts
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def memory_bytes(device: torch.device) -> int:
    """Return what is in use now; on a CPU what the process holds, 0 where nobody tells."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    with contextlib.suppress(OSError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return 0


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak of allocated device memory, or of resident memory on the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError, IndexError):  # not every Linux tells VmHWM
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
