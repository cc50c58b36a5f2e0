"""The networks that are compared: what a method is at the end, or at the end of several of its stages."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from trainer.experiment.comparison.method import Method
from trainer.experiment.stage import Stage
from trainer.observe.metrics import Record, read_metrics

SECONDS = "seconds.json"
"""In the folder of a run, wall time in s of its stages that do not train, by name."""


@dataclass(frozen=True)
class Candidate:
    """A network of a comparison: the end of a stage (empty for a method without stages)."""

    name: str
    method: Method
    stage: str

    def stages(self, folder: Path, seed: int) -> list[Stage]:
        """The stages up to its own, of which it is the result."""
        stages = self.method.stages(folder, seed)
        return stages[: [stage.name for stage in stages].index(self.stage) + 1]


def candidates(method: Method) -> list[Candidate]:
    """The networks of a method: one for each stage that trains and is no teacher (no stage draws pairs from it)."""
    stages = method.stages(Path("run"), 0)
    if not stages[0].name:
        return [Candidate(method.name, method, "")]
    teachers = {stage.teacher for stage in stages}
    own = [stage for stage in stages if stage.trains and stage.folder not in teachers]
    last = [f" {stage.name}" if len(own) > 1 else "" for stage in own]
    return [Candidate(method.name + end, method, stage.name) for stage, end in zip(own, last, strict=True)]


def training_seconds(records: Sequence[Record]) -> float:
    """Time of all steps of a run; each record has the mean time of a step since the one before."""
    last, total = 0, 0.0
    for record in records:
        total += (record.step - last) * record.values.get("time.step_s", 0.0)
        last = record.step
    return total


def step_seconds(run_dir: Path) -> float:
    """Median of the mean step times of a run's records, the first step left out where there are others."""
    times = [record.values["time.step_s"] for record in read_metrics(run_dir / "metrics.jsonl")]
    return median(times[1:] or times)
