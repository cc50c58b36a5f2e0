"""A rank that dies with kill -9: KILL_RANK says which, KILL_STEP in which step.

It dies as the step begins or, with KILL_SAVING, when half of its file of the checkpoint behind the step is written. A
rank that draws pairs dies when half of its shard of number KILL_STEP is written.
"""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from torch import Tensor

from trainer.__main__ import main
from trainer.checkpoint import storage
from trainer.checkpoint.directory import step_of
from trainer.checkpoint.manifest import FileRecord
from trainer.checkpoint.storage import write_tensors
from trainer.sampling import pairs as pairs_run
from trainer.training import loop
from trainer.training.rank import Training

take_step = loop.take_step
RANK, STEP = os.environ["KILL_RANK"], int(os.environ["KILL_STEP"])


def dying_step(run: Training, step: int) -> Any:
    if step == STEP and os.environ["RANK"] == RANK:
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(run, step)


def dying_save(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[Tensor], metadata: Mapping[str, str]
) -> FileRecord:
    if step_of(path.parent.parent) == STEP and os.environ["RANK"] == RANK:
        tensors = first_half(list(tensors))
    return write_tensors(path, shapes, tensors, metadata)


def first_half(tensors: list[Tensor]) -> Iterator[Tensor]:
    yield from tensors[: len(tensors) // 2]
    os.kill(os.getpid(), signal.SIGKILL)


def dying_shard(arrays: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
    if f"shard_{STEP:05d}" in path.name and os.environ["RANK"] == RANK:
        content = safetensors.numpy.save(arrays, metadata)
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    safetensors.numpy.save_file(arrays, path, metadata)


pairs_run.save_file = dying_shard
if "KILL_SAVING" in os.environ:
    storage.write_tensors = dying_save
else:
    loop.take_step = dying_step
sys.exit(main())
