"""The memory of a rank, measured while the real loop takes steps."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

import trainer.task
from trainer.config.run import RunConfig
from trainer.data import Batch, Dataset, Split
from trainer.experiment.forecast.recording import Storages

STEPS, REPEATS = 4, 4
"""The fourth step and those behind it are measured: by then AdamW has its moments, and ZeRO 3 knows in which order
parameters are used. The least of them counts, since gloo's threads hold on to what they sent for a while."""


class Zeros(Dataset):
    """Examples of which only the shape matters."""

    def __init__(self, config: RunConfig) -> None:
        self.shape, self.num_classes = config.data.shape, config.data.num_classes
        self.integer = config.model.kind == "gpt"

    def indices(self, split: Split) -> torch.Tensor:  # noqa: ARG002
        """Enough for any batch of these tests."""
        return torch.arange(512)

    def get(self, ids: torch.Tensor) -> Batch:
        """Zeros and their labels."""
        x = torch.zeros(len(ids), *self.shape, dtype=torch.int64 if self.integer else torch.float32)
        return Batch(x, ids % self.num_classes if self.num_classes else None, ids)


@dataclass
class Measured:
    """Bytes of a rank.

    Attributes:
        peak: of the last step, by a mode that follows storages.
        mem_tracker: the same by torch's `MemTracker`.
        phases: peak of each phase of the last step.
        state: bytes held between steps by kind.
        events: (phase, bytes held) after every change of the last step.
    """

    peak: int
    mem_tracker: int | None
    phases: dict[str, int]
    state: dict[str, int]
    events: list[tuple[str, int]]


class _Watch:
    def __init__(self) -> None:
        self.phase, self.now = "built", 0
        self.peaks: dict[str, int] = {}
        self.events: list[tuple[str, int]] = []
        self.storages = Storages(self._changed)

    def _changed(self, _number: int, size: int) -> None:
        self.now += size
        self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), self.now)
        self.events.append((self.phase, self.now))

    def wrap(self, owner: Any, name: str, phase: str, first: Callable[[], None] | None = None) -> None:
        """Names the phase in which a method runs."""
        method: Callable[..., Any] = getattr(owner, name)

        def called(*arguments: Any, **named: Any) -> Any:
            gc.collect()  # what circles of objects hold is given back at a moment that differs from run to run
            before, self.phase = self.phase, phase
            if first is not None:
                first()
            try:
                return method(*arguments, **named)
            finally:
                self.phase = before

        setattr(owner, name, called)


@contextmanager
def _both(watch: _Watch, tracker: MemTracker | None) -> Iterator[None]:
    if tracker is None:
        with watch.storages:
            yield
    else:
        with tracker, watch.storages:
            yield


def measure(rank: int, world_size: int, config: RunConfig, *, mem_tracker: bool = True) -> Measured:
    """Takes some steps of the real loop on process groups of its own."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.training.assembly import assembled
    from trainer.training.loop import take_step

    layout = plan_layout(config, world_size)
    divide_ranks(layout.expert_parallel, layout.tensor_parallel)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    watch = _Watch()
    tracker = MemTracker() if mem_tracker else None
    with _both(watch, tracker):
        training = assembled(config, layout, launch, trainer.task.build(config), Zeros(config), [], None)
        watch.wrap(training.task, "loss", "forward", tracker.reset_mod_stats if tracker else None)
        watch.wrap(training.engine, "backward", "backward")
        watch.wrap(training.engine, "step", "optimizer")
        watch.wrap(training.average, "update", "average")
        for step in range(1, STEPS):
            take_step(training, step)
    parameters = {watch.storages.number(shard.tensor) for shard in training.engine.shards()}
    pieces = training.engine.state()
    masters = [piece.tensor for piece in pieces if watch.storages.number(piece.tensor) not in parameters]
    state = {
        "parameters": sum(watch.storages.live[number] for number in parameters),
        "optimizer": watch.storages.held(piece.tensor for piece in pieces if piece.kind != "weight"),
        "master": watch.storages.held(masters) - watch.storages.held(p.tensor for p in pieces if p.kind != "weight"),
        "average": watch.storages.held(piece.tensor for piece in training.average.state()),
        "total": sum(watch.storages.live.values()),
    }
    steps = []
    for step in range(STEPS, STEPS + REPEATS):
        watch.phase, watch.peaks, watch.events = "between", {"between": watch.now}, []
        with _both(watch, tracker):
            take_step(training, step)
        found = tracker and int(tracker.get_tracker_snapshot("peak")[launch.device]["Total"])
        steps.append(Measured(max(watch.peaks.values()), found, watch.peaks, state, watch.events))
    unite_ranks()
    return min(steps, key=lambda one: one.peak)
