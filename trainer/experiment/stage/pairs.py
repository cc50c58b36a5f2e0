"""A stage that draws pairs from a trained network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe.files import FileError
from trainer.checkpoint.directory import complete_steps
from trainer.config.constraints.drawing import check_drawn_by
from trainer.data.shard.index import INDEX
from trainer.experiment.stage.protocol import _Stage
from trainer.experiment.stage.train import TrainStage
from trainer.sampling.pairs.request import PairsRequest


@dataclass(frozen=True)
class PairsStage(_Stage):
    """Pairs of source and data points that a teacher draws; its document is what is asked of the teacher."""

    verb = "pairs"

    @property
    def finished(self) -> bool:
        """Whether the index of the pairs is there, which is written last."""
        return (self.folder / INDEX).exists()

    def request(self) -> PairsRequest:
        """What is asked of the teacher.

        Raises:
            FileError: it is wrong.
        """
        return self._asked(PairsRequest, self.document)

    def check(self, world_size: int, stages: Sequence[_Stage]) -> None:  # noqa: ARG002  any number of ranks draws pairs
        """See the base class."""
        request, teacher = self.request(), self.request().run
        earlier = [stage for stage in stages[: stages.index(self)] if isinstance(stage, TrainStage)]
        for stage in earlier:
            if stage.folder == teacher and not stage.awaited(stages):
                with self._told():
                    check_drawn_by(stage.config(), request.sampler, request.guidance)
        self._check_held_out(request.num, stages)
        if any(stage.folder == teacher for stage in earlier) or complete_steps(teacher / "checkpoints"):
            return
        named = ", ".join(str(stage.folder) for stage in earlier) or "there is none"
        remedy = f"give the folder of an earlier stage that trains ({named}), or that of a run"
        raise FileError(self.path, f"stages.{self.name}.run", f"there is no run in {teacher}", remedy)

    def _check_held_out(self, num: int, stages: Sequence[_Stage]) -> None:
        """Refuses pairs of which a later stage holds out all."""
        for stage in stages[stages.index(self) + 1 :]:
            match stage.document.get("data"):
                case {"path": path, "held_out": int(held_out)} if Path(str(path)) == self.folder and held_out >= num:
                    problem = f"{num} leave none to train on to stage {stage.name}, which holds out {held_out}"
                    remedy = f"draw more, or lower stages.{stage.name}.data.held_out"
                    raise FileError(self.path, f"stages.{self.name}.num", problem, remedy)
