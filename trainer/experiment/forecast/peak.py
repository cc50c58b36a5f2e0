"""The largest memory of a rank in a step, put together from its passes and its engine, and how it is shown."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from trainer.experiment.forecast.protocol import PARTS, EngineMemory, Growth, Micro, Moment, Part
from trainer.experiment.forecast.recording import Change, Event, Recording
from trainer.observe.units import scaled


@dataclass(frozen=True)
class Peak:
    """The moment of a step at which a rank holds most, by part; phases are forward, backward and optimizer."""

    parts: dict[Part, int]
    phase: str

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class StepMemory:
    """The memory of a step in bytes: between two steps, at the peak of each phase, and what a checkpoint copies to the
    host: float32 weights, both moments and the average."""

    held: dict[Part, int]
    peaks: dict[str, Peak]
    snapshot: int

    @property
    def peak(self) -> Peak:
        """The largest moment of all."""
        return max(self.peaks.values(), key=lambda peak: peak.total)


def step_memory(recording: Recording, engine: EngineMemory, accumulation: int, *, frozen: int = 0) -> StepMemory:
    """Follows a step of so many micro batches; every rank holds the frozen bytes whole."""
    ledger = _Ledger({**engine.held(), "frozen": frozen, "average": engine.average()})
    held = ledger.parts()
    ledger.grow([Growth("activations", accumulation * recording.drawn)])
    for number in sorted({0, 1, accumulation - 1} & set(range(accumulation))):
        micro = Micro(number == 0, number == accumulation - 1)
        ledger.begin(recording)
        ledger.phase = "forward"
        engine.begin()
        ledger.follow(recording.forward, engine, True, micro)
        ledger.phase = "backward"
        ledger.follow(recording.backward, engine, False, micro)
        ledger.grow(engine.after(micro))
    ledger.phase = "optimizer"
    ledger.grow(engine.update())
    return StepMemory(held, ledger.peaks, 4 * engine.average())


class _Ledger:
    """Bytes held by part, and the largest sum that was seen in each phase."""

    def __init__(self, held: dict[Part, int]) -> None:
        self.phase = "forward"
        self.peaks: dict[str, Peak] = {}
        self._bytes: Counter[Part] = Counter(held)
        self._total, self._largest = sum(held.values()), dict[str, int]()
        self._sizes: Counter[int] = Counter()

    def parts(self) -> dict[Part, int]:
        return {part: self._bytes[part] for part in PARTS}

    def begin(self, recording: Recording) -> None:
        self._sizes, self._taken, self._kinds = Counter(), set[int](), recording.kinds

    def grow(self, growths: Iterable[Growth]) -> None:
        for part, size in growths:
            self._bytes[part] += size
            self._total += size
            if size > 0 and self._total > self._largest.get(self.phase, -1):
                self._largest[self.phase] = self._total
                self.peaks[self.phase] = Peak(self.parts(), self.phase)

    def follow(self, events: tuple[Event, ...], engine: EngineMemory, forward: bool, micro: Micro) -> None:
        for event in events:
            match event:
                case Change(storage, size) if storage not in self._taken:
                    self._sizes[storage] += size
                    self.grow([Growth(self._part(storage), size)])
                case Moment(storage=storage):
                    if storage:
                        self._taken.add(storage)
                        self.grow([Growth(self._part(storage), -self._sizes[storage])])
                    self.grow(engine.moment(event, self._sizes[storage], forward, micro))

    def _part(self, storage: int) -> Part:
        return "dispatch" if self._kinds.get(storage) == "dispatch" else "activations"


def summary(memory: StepMemory) -> str:
    """The peak of a rank in a line."""
    peak = memory.peak
    return (
        f"a rank needs {scaled(peak.total, 'B')} at most, in the {PHASES[peak.phase]}; "
        f"a checkpoint copies {scaled(memory.snapshot, 'B')} of it to the host"
    )


def memory_table(memory: StepMemory) -> Table:
    """Bytes by part: between two steps, and at the largest moment of each phase."""
    table = Table(title="memory of a rank, by formula", title_justify="left")
    table.add_column("part")
    table.add_column("held", justify="right")
    for phase in memory.peaks:
        table.add_column(phase, justify="right")
    columns = [memory.held, *(one.parts for one in memory.peaks.values())]
    for part in PARTS:
        if any(column[part] for column in columns):
            table.add_row(part, *(scaled(column[part], "B") if column[part] else "" for column in columns))
    table.add_row("all", *(scaled(sum(column.values()), "B") for column in columns), style="bold")
    return table


PHASES = {
    "forward": "forward pass",
    "backward": "backward pass",
    "optimizer": "optimiser's step",
}
