"""Stages that ask a trained network."""

from collections.abc import Sequence
from dataclasses import dataclass

from netsim.foundation.refusal import Refusal
from trainer.checkpoint.directory import check_possible, complete_steps
from trainer.config.run import RunConfig
from trainer.experiment.stage.protocol import ConfiguredStage, Stage


@dataclass(frozen=True)
class TaughtStage(Stage):
    """A stage that asks the network of an earlier stage, or of a run that is there already."""

    def _check_teacher(self, stages: Sequence[Stage]) -> RunConfig | None:
        """The configuration of the stage that trains the teacher; None: another file does, or that stage waits for
        others.
        """
        teacher = self.teacher
        assert teacher is not None
        check_possible(teacher / "checkpoints")
        earlier = [
            stage for stage in stages[: stages.index(self)] if isinstance(stage, ConfiguredStage) and stage.trains
        ]
        for stage in earlier:
            if stage.folder == teacher:
                return None if stage.awaited(stages) else stage.config()
        if complete_steps(teacher / "checkpoints"):
            return None
        named = ", ".join(str(stage.folder) for stage in earlier) or "there is none"
        remedy = f"give the folder of an earlier stage that trains ({named}), or that of a run"
        raise Refusal(self.path, f"stages.{self.name}.run", f"there is no run in {teacher}", remedy)
