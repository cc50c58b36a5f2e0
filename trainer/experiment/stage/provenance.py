"""Whether finished stages were made by the settings of today."""

from collections.abc import Mapping, Sequence
from typing import Any

from netsim.foundation.refusal import Refusal
from trainer.experiment.stage.protocol import Stage


def check_provenance(stage: Stage, stages: Sequence[Stage]) -> None:
    """Refuses a finished stage that was made by other settings than those of now."""
    remedy = f"give another run.dir, or delete {stage.folder} and the folders of the stages that read from it"
    for read in stage.awaited(stages):
        problem = f"is finished, and stage {read.name}, from which it was made, is not"
        raise Refusal(stage.folder, "stage", problem, remedy)
    path, made, now = stage.provenance()
    differing = difference(made, now)
    if differing is not None:
        name, was, wanted = differing
        raise Refusal(
            path, name, f"stage {stage.name} was made with {was}, and the configuration now asks for {wanted}", remedy
        )


def check_read(stage: Stage, stages: Sequence[Stage]) -> None:
    """Refuses a stage, run alone, that reads from a finished one which was made by other settings."""
    for read in stage.read_from(stages):
        check_read(read, stages)
        if read.finished:
            check_provenance(read, stages)


def difference(made: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting that differs between two documents, by dotted key, and its value in each; None: none does."""
    made, now = _flat(made), _flat(now)
    differing = (name for name in sorted(made.keys() | now.keys()) if made.get(name) != now.get(name))
    return next(((name, made.get(name), now.get(name)) for name in differing), None)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The values of nested sections by dotted key."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{before}{key}.") if isinstance(inner, dict) else {before + key: inner}
    return flat
