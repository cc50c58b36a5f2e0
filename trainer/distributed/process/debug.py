"""What a rank was doing: the stacks of its threads and the collectives that it issued last."""

import faulthandler
import os
import sys
import traceback
from collections.abc import Collection
from pathlib import Path

from netsim.foundation.files import replacing
from netsim.foundation.refusal import Failure, Refusal
from trainer.distributed.process.flights import flights, last_collective
from trainer.distributed.process.waiting import ranks_that_waited, waited_in_vain


def dump(folder: Path, rank: int, reason: str, error: BaseException | None = None) -> Path:
    """Writes the stacks of a rank, and torch's flight recorder, to `debug/`, over an earlier dump of it.

    Returns ``rank_00000_stacks.txt``: `reason` in the first line, the last collective in the second, then the traceback
    of `error` and the stacks. Beside it is ``rank_00000_flights.json``, where torch has a recorder.
    """
    folder = folder / "debug"
    folder.mkdir(parents=True, exist_ok=True)
    stacks = folder / f"rank_{rank:05d}_stacks.txt"
    with replacing(stacks) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f"rank {rank}, process {os.getpid()}: {reason}\nlast collective: {last_collective()}\n\n")
        if error is not None:
            file.writelines([*traceback.format_exception(error), "\n"])
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
    recorded = flights()
    if recorded is not None:
        with replacing(folder / f"rank_{rank:05d}_flights.json") as temporary:
            temporary.write_bytes(recorded)
    return stacks


def dump_failure(folder: Path, rank: int, world_size: int, error: Exception) -> None:
    """Writes the state of a rank when it failed, and for which ranks it waited if that was the reason."""
    try:
        stacks = dump(folder, rank, "the run failed", error)
    except (Failure, Refusal, OSError):  # perhaps for the same reason; the error itself is what matters
        return
    waited = ranks_that_waited(rank) if waited_in_vain(error) else None
    if waited is None:
        return
    reason = in_vain(last_collective(), set(range(world_size)) - waited)
    dump(folder, rank, reason, error)
    if rank == min(waited):
        print(f"rank {rank} {reason}; see {stacks}", file=sys.stderr, flush=True)


def in_vain(collective: str, absent: Collection[int]) -> str:
    """Why a rank gives up that waited in `collective` for the ranks `absent`; none: all of them were there."""
    missing = f"rank{'s' * (len(absent) > 1)} {', '.join(map(str, sorted(absent)))}, which came too late or not at all"
    return f"waited too long in {collective} for {missing if absent else 'others that waited as well'}"
