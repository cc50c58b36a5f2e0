"""The collectives that this process issued last, from torch's flight recorder."""

import json
import os
from typing import Any

import torch
import torch.distributed as dist

RECORDS = "2000"
NAMED_RANKS = 8
"""Ranks of a group that are listed one by one."""


def record_flights() -> None:
    """Lets torch remember the last collectives of this process; before any process group exists."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", RECORDS)


def flights() -> bytes | None:
    """The last collectives as JSON; None: this torch has no recorder."""
    native: Any = getattr(torch._C, "_distributed_c10d")  # noqa: B009  not in torch's stubs
    return native._dump_fr_trace_json() if hasattr(native, "_dump_fr_trace_json") else None


def last_collective() -> str:
    """The last collective, as words that name its group and the ranks in it."""
    entries = json.loads(flights() or b"{}").get("entries")
    if not entries:
        return "a collective that was not recorded"
    operation = entries[-1]["profiling_name"].rpartition(":")[2]
    name, purpose = entries[-1]["process_group"]
    names = dist.distributed_c10d._world.pg_names  # torch has no public list of them
    ranks = next((dist.get_process_group_ranks(group) for group, known in names.items() if known == name), [])
    listed = ", ".join(map(str, ranks)) if len(ranks) <= NAMED_RANKS else f"{ranks[0]} to {ranks[-1]}"
    return f"{operation} of {purpose} (ranks {listed})"
