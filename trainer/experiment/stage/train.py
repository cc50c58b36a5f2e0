"""A stage that trains a network."""

from dataclasses import dataclass

from trainer.checkpoint.directory import complete_steps
from trainer.experiment.stage.protocol import _ConfiguredStage


@dataclass(frozen=True)
class TrainStage(_ConfiguredStage):
    """A run that trains what its configuration says."""

    verb = "train"

    @property
    def finished(self) -> bool:
        """Whether the checkpoint of its last step is there."""
        steps = complete_steps(self.folder / "checkpoints")
        return bool(steps) and steps[-1] == (self.document.get("optim") or {}).get("steps")
