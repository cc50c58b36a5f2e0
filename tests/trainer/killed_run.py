"""A training rank that dies with kill -9: KILL_RANK says which, KILL_STEP in which step.

It dies as the step begins or, with KILL_SAVING, when half of its file of the checkpoint behind the step is written.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save, save_file
from torch import Tensor

from trainer import loop
from trainer.__main__ import main
from trainer.checkpoint import storage
from trainer.checkpoint.directory import step_of

take_step = loop._Training._step
RANK, STEP = os.environ["KILL_RANK"], int(os.environ["KILL_STEP"])


def dying_step(self: loop._Training, step: int) -> Any:
    if step == STEP and os.environ["RANK"] == RANK:
        os.kill(os.getpid(), signal.SIGKILL)
    return take_step(self, step)


def dying_save(tensors: dict[str, Tensor], path: Path) -> None:
    if step_of(path.parent.parent) == STEP and os.environ["RANK"] == RANK:
        content = save(tensors)
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    save_file(tensors, path)


if "KILL_SAVING" in os.environ:
    storage.save_file = dying_save
else:
    loop._Training._step = dying_step
sys.exit(main())
