"""Checkpoint folders: named by step, complete or not there.

checkpoints/step_00000300/
    engine/                  the engine's own files
    experts/                 layer_000_expert_00005.safetensors: weight and optimiser state of one logical expert
    rank_00000.pt ...        what only that rank knows: tensors and plain values
    ema.safetensors          moving average of every parameter by its logical name
    config.yaml, placement.json
    COMPLETE                 written last: what a resuming run must have in common with this one
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe.files import FileError, replacing

FORMAT = "flowfabric.checkpoint/1"


@dataclass(frozen=True)
class Identity:
    """What a run must share with a checkpoint to continue it bit for bit.

    Attributes:
        world_size: all ranks.
        expert_parallel: ranks that share the experts of a layer.
        zero_stage: what DeepSpeed shards; None under FSDP2.
        precision: of the weights in the network.
        network: settings of model, experts and data by dotted key, without what may change between two starts.
    """

    world_size: int
    expert_parallel: int
    zero_stage: int | None
    precision: str
    network: dict[str, Any]


def step_folder(root: Path, step: int) -> Path:
    """The folder of the checkpoint after `step` optimiser steps."""
    return root / f"step_{step:08d}"


def complete_steps(root: Path) -> list[int]:
    """Steps of the complete checkpoints under a folder, in rising order."""
    return sorted(step for step, folder in _step_folders(root).items() if (folder / "COMPLETE").exists())


def mark_complete(folder: Path, step: int, identity: Identity) -> None:
    """Declares a checkpoint whole; the last thing that a save does."""
    with replacing(folder / "COMPLETE") as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "step": step, **asdict(identity)}, indent=1) + "\n")


def check_identity(folder: Path, identity: Identity) -> None:
    """Refuses to continue a checkpoint as something else.

    Args:
        folder: a complete checkpoint.
        identity: of the run that wants to continue it.

    Raises:
        FileError: the marker is malformed or a field differs.
    """
    marker = folder / "COMPLETE"
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
        saved = _flat(Identity(**{name: found[name] for name in asdict(identity)}))
    except KeyError as error:
        raise FileError(marker, str(error.args[0]), "is missing", "delete the folder to fall back") from error
    except (OSError, ValueError, TypeError) as error:
        raise FileError(marker, "marker", f"is malformed ({error})", "delete the folder to fall back") from error
    for name, value in _flat(identity).items():
        if saved.get(name) != value:
            raise FileError(
                marker,
                name,
                f"is {saved.get(name)} where this run has {value}",
                "continue with the former, or give another run.dir",
            )


def prune(root: Path, keep: int) -> None:
    """Deletes all but the newest complete checkpoints, and what broken saves left behind before them."""
    kept = complete_steps(root)[-keep:]
    for step, folder in _step_folders(root).items():
        if step not in kept and step <= kept[-1]:
            (folder / "COMPLETE").unlink(missing_ok=True)
            shutil.rmtree(folder)


def _step_folders(root: Path) -> dict[int, Path]:
    """Checkpoint folders by step; a copy under another name, such as step_00000300_good, is the user's own."""
    return {int(path.name[5:]): path for path in root.glob("step_*") if re.fullmatch(r"step_\d{8,}", path.name)}


def _flat(identity: Identity) -> dict[str, Any]:
    fields = asdict(identity)
    network = fields.pop("network")
    return {**fields, **dict(network)}
