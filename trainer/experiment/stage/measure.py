"""A stage that asks the true objectives of a batch of objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import with_kinds
from trainer.config.rules.objection import Objections
from trainer.config.task.environment import MeasuredFile, MeasureRequest
from trainer.distributed.groups import Launch
from trainer.experiment.stage.protocol import Provenance, Stage, TaughtStage, filled

MEASURED = "measured.json"
"""Name of the file that it writes."""


@dataclass(frozen=True)
class MeasureStage(TaughtStage):
    """A batch of objects that a policy, or even choices, build and that are measured; its document is the request."""

    verb = "measure"

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:
        """Of the other sections of the file, it reads in which environment objects are built."""
        task = shared.get("task")
        known = {"environment": task["environment"]} if isinstance(task, dict) and "environment" in task else {}
        return cls(name, path, Path(base) / name, with_kinds(MeasureRequest, filled({**known, **settings}, base)))

    @property
    def file(self) -> Path:
        """The file that it writes."""
        return self.folder / MEASURED

    @property
    def finished(self) -> bool:
        """Whether the file is there."""
        return self.file.exists()

    @property
    def teacher(self) -> Path | None:
        """The policy, if there is one."""
        run = self.document.get("run")
        return None if run is None else Path(str(run))

    def request(self) -> MeasureRequest:
        """What is asked for."""
        return self._validated(MeasureRequest, self.document)

    def objections(self, world_size: int, stages: Sequence[Stage]) -> Objections:  # noqa: ARG002  any number of ranks may wait
        request = self.request()
        if request.run is not None:
            self._check_teacher(stages)
        if request.measured is None or any(stage.folder == request.measured.parent for stage in self.awaited(stages)):
            return
        if MeasuredFile.read(request.measured).environment != request.environment:
            problem = f"{request.measured} holds objects of another environment"
            yield Refusal(self.path, f"stages.{self.name}.measured", problem, "give a file of this environment")

    def run(self, launch: Launch) -> int:  # noqa: ARG002  the work asks the launcher itself
        from trainer.experiment.built.measuring import run as measure

        return measure(self.request(), self.file)

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:  # noqa: ARG002  any number of ranks may wait
        """Prints what is asked for."""
        print(self.request().model_dump_json())

    def provenance(self) -> Provenance:
        """The file is the record, and the weights of the policy decide too."""
        from trainer.experiment.built.measuring import weights_of

        request = self.request()
        return Provenance(self.file, MeasuredFile.read(self.file).made_by, request.what_decides(weights_of(request)))
