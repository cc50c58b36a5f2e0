"""What a rank was doing: the stacks of its threads and the collectives that it issued last."""

import faulthandler
import os
import traceback
from pathlib import Path
from typing import Any

import torch

from moe.files import replacing

FLIGHT_RECORDS = "2000"


def record_flights() -> None:
    """Lets torch remember the last collectives of this process; before any process group exists."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", FLIGHT_RECORDS)


def dump(folder: Path, rank: int, reason: str, error: BaseException | None = None) -> Path:
    """Writes what a rank is doing, in place of what an earlier dump of it said.

    Args:
        folder: of the run; the files go to its ``debug/``.
        rank: whose.
        reason: first line of the stacks.
        error: what went wrong, if it is known; its traceback comes before the stacks.

    Returns:
        The file of the stacks, ``rank_00000_stacks.txt``. Beside it lies ``rank_00000_flights.json``, torch's flight
        recorder, where torch has one.
    """
    folder = folder / "debug"
    folder.mkdir(parents=True, exist_ok=True)
    stacks = folder / f"rank_{rank:05d}_stacks.txt"
    with replacing(stacks) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"rank {rank}, process {os.getpid()}: {reason}\n\n")
        if error is not None:
            file.writelines([*traceback.format_exception(error), "\n"])
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
    native: Any = getattr(torch._C, "_distributed_c10d")  # noqa: B009  not in torch's stubs
    if hasattr(native, "_dump_fr_trace_json"):
        with replacing(folder / f"rank_{rank:05d}_flights.json") as temporary:
            temporary.write_bytes(native._dump_fr_trace_json())
    return stacks
