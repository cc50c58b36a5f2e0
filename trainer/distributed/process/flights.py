"""The collectives that this process issued last, from torch's flight recorder."""

import json
import os
from typing import Any

import torch
import torch.distributed as dist

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
    """The last collectives as JSON, or only how far each process group has come; None: this torch has no recorder."""
    recorded = None
    for name in _DUMPS:
        if hasattr(_native(), name):
            recorded = getattr(_native(), name)(includeCollectives=collectives)
            if json.loads(recorded).get("pg_status"):
                break
    return recorded


def last_collective() -> str:
    """The last collective, as words that name its group and the ranks in it."""
    return _words(_entries()[-1:])


def collective(group: str, number: int) -> str:
    """Text for a collective by its number, from 1, in a process group by torch's name."""
    entries = _entries()
    of_group = [entry for entry in entries if entry["process_group"][0] == group]
    return _words([entry for entry in of_group if entry.get("collective_seq_id") == number] or of_group[-1:])


def group_names() -> dict[str, str]:
    """The recorder's numbers of process groups to torch's names of them, so far as they have issued something."""
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
