"""Dumps of the state of a rank: stacks of its threads, its last collectives, the ranks that it waited for."""

import faulthandler
import json
import os
import sys
import time
import traceback
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from netsim.foundation.files import replacing, write_bytes
from netsim.foundation.refusal import Failure, Refusal

RECORDS = "2000"
NAMED_RANKS = 8
"""Ranks of a group that are listed one by one."""
_BUFFERS = "TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"
"""Variables for the number of records: since torch has a recorder for all backends, and before."""
_OF_NCCL = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # a process whose collective has failed ends
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",  # where TORCH_NCCL_DEBUG_INFO_TEMP_FILE says
}
_DUMPS = ("_dump_nccl_trace_json", "_dump_fr_trace_json")
"""NCCL has a recorder of its own in torch; the other backends share one."""


def record_flights() -> None:
    """Lets torch remember the last collectives of this process; before any process group exists."""
    if os.environ.keys().isdisjoint(_BUFFERS):
        os.environ[_BUFFERS[0] if hasattr(_native(), _DUMPS[1]) else _BUFFERS[1]] = RECORDS
    for name, value in _OF_NCCL.items():
        os.environ.setdefault(name, value)


def flights(*, collectives: bool = True) -> bytes | None:
    """Returns the last collectives as JSON, or only the progress of each process group; None without a recorder."""
    recorded = None
    for name in _DUMPS:
        if hasattr(_native(), name):
            recorded = getattr(_native(), name)(includeCollectives=collectives)
            if json.loads(recorded).get("pg_status"):
                break
    return recorded


def last_collective() -> str:
    """Describes the last collective in words, with its process group and ranks."""
    return _words(_entries()[-1:])


def collective(group: str, number: int) -> str:
    """Describes in words the collective with a number, from 1, in the process group that torch calls `group`."""
    entries = _entries()
    of_group = [entry for entry in entries if entry["process_group"][0] == group]
    return _words([entry for entry in of_group if entry.get("collective_seq_id") == number] or of_group[-1:])


def group_names() -> dict[str, str]:
    """Maps the flight recorder's number of each process group with a collective to torch's name of the group."""
    return {str(entry["pg_id"]): entry["process_group"][0] for entry in _entries() if "pg_id" in entry}


def ranks_of(group: str) -> list[int]:
    """Global ranks of a process group, by torch's name of it."""
    names = dist.distributed_c10d._world.pg_names  # torch has no public list of them
    return next((dist.get_process_group_ranks(known) for known, name in list(names.items()) if name == group), [])


def _native() -> Any:
    return getattr(torch._C, "_distributed_c10d")  # noqa: B009  not in torch's stubs


def _entries() -> list[dict[str, Any]]:
    return json.loads(flights() or b"{}").get("entries") or []


def _words(entries: list[dict[str, Any]]) -> str:
    if not entries:
        return "a collective that was not recorded"
    operation = entries[-1]["profiling_name"].rpartition(":")[2]
    name, purpose = entries[-1]["process_group"]
    ranks = ranks_of(name)
    listed = ", ".join(map(str, ranks)) if len(ranks) <= NAMED_RANKS else f"{ranks[0]} to {ranks[-1]}"
    return f"{operation} of {purpose} (ranks {listed})"


PATIENCE_S = 5.0
"""Time for ranks that give up a little later than this one."""


def waited_in_vain(error: Exception) -> bool:
    """Whether an error says that a collective timed out; torch says so only in the message."""
    text = str(error).lower()
    return dist.is_initialized() and ("timed out" in text or "operation timeout" in text)


def ranks_that_waited(rank: int) -> set[int] | None:
    """The ranks that ran out of time in a collective, this one included; takes :data:`PATIENCE_S`.

    A rank that waits for another keeps others waiting in turn. All waiting ranks call this; the ranks that do not are
    the cause. None if the rendezvous store is gone, with its node or the connection to it.
    """
    store: Any = dist.distributed_c10d._get_default_store()  # the stubs lack append
    store.set_timeout(timedelta(seconds=PATIENCE_S))
    try:
        store.append("waited_in_vain", f"{rank} ")
        time.sleep(PATIENCE_S)
        return {int(number) for number in store.get("waited_in_vain").split()}
    except RuntimeError:
        return None


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
        write_bytes(folder / f"rank_{rank:05d}_flights.json", recorded)
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
    """Message that a rank has waited too long in `collective` for the ranks `absent`, or for others that waited too."""
    missing = f"rank{'s' * (len(absent) > 1)} {', '.join(map(str, sorted(absent)))}, which came too late or not at all"
    return f"waited too long in {collective} for {missing if absent else 'others that waited as well'}"
