"""Speed and memory of a run, and ranks that are slower than the others."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from netsim.foundation.files import replacing
from trainer.config.model.gpt import GPTConfig
from trainer.config.run import RunConfig
from trainer.config.sections import ProfileConfig

if TYPE_CHECKING:
    from torch.profiler import profile

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

    On Linux ``getrusage`` starts at the peak of the program that ran in the process before (the launcher), so it is
    used only without ``/proc``.
    """
    if _STATUS.exists():
        fields = dict(line.split(":", 1) for line in _STATUS.read_text(encoding="ascii").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Speed:
    """Turns the time of a step into figures; model FLOP/s count what the model needs, not what the ranks repeat."""

    def __init__(self, config: RunConfig, flops: int | None, world_size: int) -> None:
        """`flops` of learning from one example may be None, not known; `world_size` is the number of devices."""
        self._examples = config.optim.global_batch
        self._tokens = config.model.tokens(config.state_shape) if isinstance(config.model, GPTConfig) else None
        self._flops = None if flops is None else self._examples * flops
        peak = config.observe.peak_flops
        self._peak_flops = None if peak is None else peak * world_size

    def figures(self, step_s: float) -> dict[str, float]:
        """``time.step_s``, ``time.samples_per_s``, of text ``time.tokens_per_s``, ``time.model_flops_per_s`` over all
        ranks.

        With ``observe.peak_flops`` also ``time.mfu``: model FLOP/s over the devices' peak (Chowdhery et al., "PaLM",
        2022, appendix B). A network whose multiply-adds are not known has the first two alone.
        """
        figures = {"time.step_s": step_s, "time.samples_per_s": self._examples / step_s}
        if self._tokens is not None:
            figures["time.tokens_per_s"] = self._tokens * figures["time.samples_per_s"]
        if self._flops is None:
            return figures
        figures["time.model_flops_per_s"] = self._flops / step_s
        if self._peak_flops is not None:
            figures["time.mfu"] = figures["time.model_flops_per_s"] / self._peak_flops
        return figures


QUIET_S = 600.0
"""Least time between two lines about slow ranks."""


class OwnWork:
    """Measures the local work of a rank in a step: waiting for its data, and the forward passes.

    The backward pass is left out: there the ranks wait for each other, so that a slow one makes all of them late. With
    experts, ZeRO 3 or couplings over a whole step they wait for each other in the forward pass too, and the measured
    spread is too small. On a device the time is the device's, and that of the step before: the host need not wait for
    it, since it has waited for the norm of that step's gradient.
    """

    def __init__(self, device: torch.device) -> None:
        self._runtime: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []
        self._earlier: list[tuple[Any, Any]] = []

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Adds the time inside to the step's."""
        if self._runtime is not None:
            begin, end = (self._runtime.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((begin, end))
        else:
            begun = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begun

    def take(self) -> float:
        """Ends a step and returns its seconds of local work; on a device those of the step before, 0 at first."""
        for begin, end in self._earlier:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        seconds, self._seconds = self._seconds, 0.0
        self._earlier, self._events = self._events, []
        return seconds


class Stragglers:
    """Compares the ranks' local work between two records; names ranks above `factor` times the mean (None: none)."""

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._steps = 0
        self._seconds: list[float] = []
        self._said = -float("inf")

    def take(self, own_s: Sequence[float]) -> None:
        """Notes the seconds of each rank's local work in a step."""
        self._steps += 1
        self._seconds = [a + b for a, b in zip(self._seconds or [0.0] * len(own_s), own_s, strict=True)]

    def figures(self, step: int) -> dict[str, float]:
        """``time.step_spread`` since the last call: slowest over mean, 1 if unknown; names outliers on stderr."""
        mean = sum(self._seconds) / len(self._seconds)
        slowest = max(range(len(self._seconds)), key=self._seconds.__getitem__)
        spread = self._seconds[slowest] / mean if mean else 1.0
        if self._factor is not None and spread > self._factor and time.monotonic() > self._said + QUIET_S:
            self._said = time.monotonic()
            print(
                f"rank {slowest} is slow: its data and forward passes took {spread:.1f} times the mean of the ranks "
                f"in the {self._steps} steps up to {step}",
                file=sys.stderr,
                flush=True,
            )
        self._steps, self._seconds = 0, []
        return {"time.step_spread": spread}


class ProfileWindow:
    """Profiles the steps of a window, from its first to its last, and writes one trace file a rank.

    A run that resumes before the end of the window deletes its earlier files and profiles the remaining steps. A run
    that resumes later keeps the files. Outside the window nothing is done.
    """

    def __init__(self, config: ProfileConfig | None, folder: Path, rank: int, started: int) -> None:
        """Removes the window's files of an earlier process, if this process will write them again."""
        self._config, self._path = config, folder / f"rank_{rank:05d}.json"
        self._steps = range(0)
        self._running: profile | None = None
        if config is not None and started < config.steps[1]:
            self._steps = range(max(config.steps[0], started + 1), config.steps[1] + 1)
            if rank == 0:
                for stale in folder.glob("rank_*.json"):
                    stale.unlink()

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Profiles what runs inside, if the step is in the window."""
        if step not in self._steps:
            yield
            return
        if self._running is None:
            self._running = self._begun()
        with torch.profiler.record_function(f"step {step}"):
            yield
        if step == self._steps[-1]:
            self._running.stop()
            with replacing(self._path) as temporary:
                self._running.export_chrome_trace(str(temporary))
            self._running = None

    def _begun(self) -> profile:
        from torch.profiler import profile  # not before it is needed

        assert self._config is not None
        running = profile(record_shapes=self._config.shapes, profile_memory=self._config.memory)
        running.start()
        return running
