"""What finished stages were made by, held against what is asked of them now."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe.files import FileError
from trainer.checkpoint.directory import complete_steps, step_folder
from trainer.checkpoint.intact import newest_checkpoint
from trainer.checkpoint.manifest import Manifest
from trainer.config.file import load_config
from trainer.config.run import RunConfig
from trainer.data import PairIndex
from trainer.data.shard.index import INDEX, read_index
from trainer.experiment.stage.kinds import Stage
from trainer.experiment.stage.pairs import PairsStage
from trainer.experiment.stage.reading import BASE
from trainer.experiment.stage.train import TrainStage
from trainer.flow.path.table import read_table
from trainer.model.weights import WEIGHTS
from trainer.sampling.pairs.request import PairsRequest

WITHOUT_EFFECT: dict[str, Any] = {
    "run": {"dir", "resume", "allow_rng_loss"},
    "engine": {"kind", "zero_stage", "activation_checkpointing", "compile", "bucket_elements", "reshard_after_forward"},
    "guard": {"abort_after", "hang_timeout_s", "collective_timeout_s", "straggler_factor"},
    **dict.fromkeys(("data_loading", "parallel", "checkpoint", "evaluate", "sample", "trace", "observe"), True),
}
"""Settings that a network's weights are no function of, or only by the rounding of another division of the work."""


def check_provenance(stage: Stage, stages: Sequence[Stage]) -> None:
    """Refuses a finished stage that was made by something else than what is asked now.

    Args:
        stage: a finished one.
        stages: all stages of the file, in their order.

    Raises:
        FileError: a setting differs, a stage that it has read from is to be made anew, or its record cannot be read.
    """
    remedy = f"give another run.dir, or delete {stage.folder} and the folders of the stages that read from it"
    for read in stage.awaited(stages):
        problem = f"is finished, and stage {read.name}, from which it was made, is not"
        raise FileError(stage.folder, "stage", problem, remedy)
    path, made, asked = _compared(stage)
    found = difference(made, asked)
    if found is not None:
        name, was, now = found
        raise FileError(path, name, f"stage {stage.name} was made with {was}, and {now} is asked now", remedy)


def check_read(stage: Stage, stages: Sequence[Stage]) -> None:
    """Refuses a stage that reads from a finished one that was made by something else than what is asked now.

    Args:
        stage: one that is run alone.
        stages: all stages of the file, in their order.

    Raises:
        FileError: as :func:`check_provenance`.
    """
    for read in stage.read_from(stages):
        check_read(read, stages)
        if read.finished:
            check_provenance(read, stages)


def difference(made: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that differs between two documents, by dotted key, and its value in each; None: none does."""
    made, asked = _flat(made), _flat(asked)
    differing = (name for name in sorted(made.keys() | asked.keys()) if made.get(name) != asked.get(name))
    return next(((name, made.get(name), asked.get(name)) for name in differing), None)


def what_decides(config: RunConfig) -> dict[str, Any]:
    """The settings that the weights of a run are a function of; folders beside its own by their place beside it."""
    return _beside(config.model_dump(mode="json", exclude=WITHOUT_EFFECT), str(config.run.dir.parent))


def _compared(stage: Stage) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The record that a stage has left, what it says, and what it would say of what is asked now."""
    match stage:
        case TrainStage():
            root = stage.folder / "checkpoints"
            path = step_folder(root, complete_steps(root)[-1]) / "config.yaml"
            return path, what_decides(load_config(path)), what_decides(stage.config())
        case PairsStage():
            return stage.folder / INDEX, dict(read_index(stage.folder, PairIndex).made_by), _asked_of(stage.request())
    asked = stage.request().what_decides(stage.config())
    made = read_table(stage.table).made_by
    return stage.table, {name: value for name, value in made.items() if name in asked}, asked


def _asked_of(request: PairsRequest) -> dict[str, Any]:
    """What decides the pairs that the teacher would draw as it is now."""
    folder = newest_checkpoint(request.run)
    source = load_config(folder / "config.yaml").starts_at
    weights = Manifest.read(folder).files[WEIGHTS].sha256
    return request.what_decides(weights, source and source.model_dump(mode="json"))


def _beside(value: Any, base: str) -> Any:
    """A value with `{run.dir}` in place of the folder of all stages, so that it is the same wherever that lies."""
    match value:
        case str():
            return BASE + value.removeprefix(base) if Path(value).is_relative_to(base) else value
        case dict():
            return {key: _beside(inner, base) for key, inner in value.items()}
        case list():
            return [_beside(inner, base) for inner in value]
    return value


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted key."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{before}{key}.") if isinstance(inner, dict) else {before + key: inner}
    return found
