"""How much memory a run needs."""

import resource
import sys
from pathlib import Path

import torch
import torch.distributed as dist

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> dict[str, float]:
    """``memory.peak_bytes``: largest host memory of any rank; on a GPU ``memory.device_peak_bytes`` too; collective."""
    peaks = [resident_peak_bytes()]
    if device.type == "cuda":
        peaks.append(torch.cuda.max_memory_allocated(device))
    largest = torch.tensor(peaks, dtype=torch.int64, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return dict(zip(("memory.peak_bytes", "memory.device_peak_bytes"), map(float, largest.tolist()), strict=False))


def resident_peak_bytes() -> int:
    """Largest resident memory of this process, in bytes.

    Linux lets ``getrusage`` start at the peak of the program that a process was before it became this one (that of
    the launcher), so it is asked only where there is no ``/proc``.
    """
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
