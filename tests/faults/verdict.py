"""Whether two runs are the same run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.directory import complete_steps, step_folder
from trainer.observe.metrics import read_metrics

_OF_THE_CLOCK = ("time.", "memory.")
_NAME_THE_RUN = {"config.yaml", "COMPLETE"}  # the folder of the run, and a checksum of the file that holds it


def differences(one: Path, other: Path, last_step: int) -> Iterator[str]:
    """In what two finished runs differ: last checkpoint (parameters, optimiser, moving average) and figures.

    Args:
        one: folder of a run.
        other: folder of another.
        last_step: the step that both end with.
    """
    folders = [step_folder(run / "checkpoints", last_step) for run in (one, other)]
    for run in (one, other):
        if last_step not in complete_steps(run / "checkpoints"):
            yield f"{run.name} has no complete checkpoint of step {last_step}"
            return
    yield from _folders_differ(*folders)
    yield from _figures_differ(one, other)


def _folders_differ(one: Path, other: Path) -> Iterator[str]:
    names = [{path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} for folder in (one, other)]
    yield from (f"{name} is in one checkpoint only" for name in sorted(names[0] ^ names[1]))
    for name in sorted(names[0] & names[1]):
        if name.name not in _NAME_THE_RUN and not _equal_files(one / name, other / name):
            yield f"{name} differs"


def _equal_files(one: Path, other: Path) -> bool:
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix != ".pt":  # the archives of torch carry more than their tensors
        return False
    return _equal(*(torch.load(path, weights_only=False) for path in (one, other)))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if hasattr(one, "__dict__"):
        return type(one) is type(other) and _equal(vars(one), vars(other))
    return bool(one == other)


def _figures_differ(one: Path, other: Path) -> Iterator[str]:
    figures = [_timeless(run / "metrics.jsonl") for run in (one, other)]
    if figures[0].keys() != figures[1].keys() or list(figures[0]) != list(figures[1]):
        yield f"metrics of {len(figures[0])} and {len(figures[1])} steps"
        return
    for step, values in figures[0].items():
        if values != figures[1][step]:
            names = {name for name in values | figures[1][step] if values.get(name) != figures[1][step].get(name)}
            yield f"metrics differ from step {step} on: {', '.join(sorted(names))}"
            return


def _timeless(path: Path) -> dict[int, dict[str, str]]:
    return {
        record.step: {name: repr(value) for name, value in record.values.items() if not name.startswith(_OF_THE_CLOCK)}
        for record in read_metrics(path)
    }
