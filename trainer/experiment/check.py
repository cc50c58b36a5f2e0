"""The check verb: validates a configuration and describes its effects, before anything is started."""

import math
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from trainer.config.rules.objection import errors, refuse_all
from trainer.experiment.stage.reading import load_stages
from trainer.experiment.stage.running import of_stages

_UNITS = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")


def parse_bytes(text: str, field: str) -> int:
    """Reads a size such as ``80GB`` (10^9 bytes) or ``64GiB`` (2^30 bytes), 1 or more."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{field}: {text!r} is not a size; use a number with a unit, such as 80GB or 64GiB")
    size = math.floor(float(match[1]) * _UNITS[match[2]])
    if size < 1:
        raise ValueError(f"{field}: {text!r} is not an amount of memory; use for example 80GB")
    return size


def run(path: Path, overrides: Sequence[str], world_size: int, fit: str | None = None, *, whole: bool = False) -> int:
    """Checks a configuration and prints what each of its stages, or its only run, will do.

    Raises ValueError with every objection, or if no settings fit a rank's memory of the size `fit`.
    """
    if world_size < 1:
        raise ValueError(f"--world-size: {world_size} ranks cannot run anything; use 1 or more")
    limit = None if fit is None else parse_bytes(fit, "--fit")
    stages = load_stages(path, overrides)
    if stages[0].name:
        refuse_all(errors(*of_stages(stages, world_size)))
    for stage in stages:
        if stage.name:
            print(f"stage {stage.name} ({stage.verb}) in {stage.folder}")
        stage.describe(world_size, stages)
        if whole and not stage.awaited(stages):
            stage.detail(world_size)
        if limit is not None and not stage.awaited(stages):
            stage.propose(world_size, limit)
    if limit is None and any(stage.trains for stage in stages):
        if not whole:
            print("--all prints every setting and every collective")
        start = f"torchrun --standalone --nproc-per-node {world_size}" if world_size > 1 else "python"
        print(f"next: {start} -m trainer train {shlex.join([str(path), *overrides])}")
    return 0
