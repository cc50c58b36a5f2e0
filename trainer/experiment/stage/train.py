"""A stage that trains a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trainer.checkpoint.directory import complete_steps, step_folder
from trainer.config.document import merged
from trainer.config.file import load_run
from trainer.config.rules.objection import errors_in, refuse_all
from trainer.config.run import RunConfig
from trainer.config.task.environment import OwnEnvironment
from trainer.distributed.groups import Launch
from trainer.experiment.stage.protocol import ConfiguredStage, Cost, Provenance, Stage, awaits, filled, placed
from trainer.observe.metrics import last_step

if TYPE_CHECKING:
    from trainer.training.task import Task

WITHOUT_EFFECT: dict[str, Any] = {
    "run": {"dir", "resume", "allow_rng_loss", "deterministic", "verify_data"},
    "engine": {"kind", "zero_stage", "activation_checkpointing", "compile", "bucket_elements", "reshard_after_forward"},
    "guard": {"abort_after", "hang_timeout_s", "collective_timeout_s", "straggler_factor"},
    **dict.fromkeys(("data_loading", "parallel", "checkpoint", "evaluate", "sample", "trace", "observe"), True),
}
"""Settings that do not change a network's weights, except for the rounding of differently divided sums."""


@dataclass(frozen=True)
class TrainStage(ConfiguredStage):
    """A run that trains what its configuration says."""

    verb = "train"
    trains = True

    @classmethod
    def of(cls, path: Path, name: str, base: str, shared: dict[str, Any], settings: dict[str, Any]) -> Self:
        folder = Path(base) / name
        document = merged(merged(shared, settings), {"run": {"dir": str(folder)}})
        return cls(name, path, folder, filled(document, base))

    @property
    def finished(self) -> bool:
        """Whether the checkpoint of its last step is there."""
        steps = complete_steps(self.folder / "checkpoints")
        optim = self.document.get("optim")
        return bool(steps) and isinstance(optim, dict) and steps[-1] == optim.get("steps")

    @property
    def cost(self) -> Cost:
        """Reads the steps without validation, for files of an earlier stage may not exist yet."""
        return Cost(steps=self.document["optim"]["steps"])

    @property
    def share_done(self) -> float:
        """The share of its steps up to the last one in its metrics."""
        return min(1.0, last_step(self.folder / "metrics.jsonl") / self.cost.steps)

    def run(self, launch: Launch) -> int:
        from trainer.training.run import run

        def task(config: RunConfig) -> "Task[Any]":
            import trainer.task  # Megatron takes seconds: not before the input is known to be good

            return trainer.task.build(config)

        config = self.config()
        _try_environment(config)
        return run(config, launch, task)

    def describe(self, world_size: int, stages: Sequence[Stage]) -> None:
        """Prints the run, or only the stage that it waits for, if its configuration cannot be validated before."""
        from trainer.experiment.stage.description import describe_run

        awaited = self.awaited(stages)
        try:
            config = self.config()
            _try_environment(config)
            describe_run(config, world_size)
        except ValueError as error:
            missed = [stage for one in errors_in(error) if (stage := awaits(one, awaited)) is not None]
            refuse_all(one for one in errors_in(error) if awaits(one, awaited) is None)
            print(f"cannot be checked further before stage {missed[0].name} is finished")

    def propose(self, world_size: int, limit: int) -> None:
        from trainer.experiment.stage.description import propose_settings

        propose_settings(self.config(), world_size, limit)

    def detail(self, world_size: int) -> None:
        from trainer.experiment.stage.description import print_details

        print_details(self.config(), world_size)

    def provenance(self) -> Provenance:
        """Returns the configurations of its last checkpoint and of the file, with digests of the files they name."""
        from trainer.checkpoint.pretrained import pinned  # brings the networks, which only a finished stage needs

        root = self.folder / "checkpoints"
        path = step_folder(root, complete_steps(root)[-1]) / "config.yaml"
        return Provenance(path, _what_decides(load_run(path.parent)), _what_decides(pinned(self.config())))


def _try_environment(config: RunConfig) -> None:
    """Refuses a user's environment that violates the laws of environments, before anything is written."""
    own = getattr(config.task, "environment", None)
    if isinstance(own, OwnEnvironment):
        from trainer.task.environment import build, check_laws  # brings torch

        check_laws(build(own), name=own.class_path)


def _what_decides(config: RunConfig) -> dict[str, Any]:
    """Returns the settings that decide the weights of a run; folders beside its own are relative to their parent."""
    return placed(config.model_dump(mode="json", exclude=WITHOUT_EFFECT), str(config.run.dir.parent))
