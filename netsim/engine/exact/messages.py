"""Begin and end of tasks in an open loop: no message waits for another."""

from math import isqrt
from typing import NamedTuple

import numpy as np
from numba import njit

from netsim.engine.compiled.fabric import FabricArrays
from netsim.workload.tasks import TaskColumns

UNKNOWN = -1
"""End of a message that has not been simulated yet, and of every task that waits for it."""


class Messages(NamedTuple):
    """Tasks with bytes, by index. Arrays of int64, one entry a message.

    Args:
        task: Index of the task.
        key: What draws take in its place.
        src: Source rank.
        dst: Destination rank.
        src_host: Host of the source.
        dst_host: Host of the destination.
        bytes: Payload.
        release_ps: When the source may send it.
        link: First link of its paths: the host's own, or the one inside.
        exit: Last link of its paths.
        pair: Its pair of leaves in `FabricArrays`.
        usable: Row of `FabricArrays.usable_begin` at its release.
    """

    task: np.ndarray
    key: np.ndarray
    src: np.ndarray
    dst: np.ndarray
    src_host: np.ndarray
    dst_host: np.ndarray
    bytes: np.ndarray
    release_ps: np.ndarray
    link: np.ndarray
    exit: np.ndarray
    pair: np.ndarray
    usable: np.ndarray


def messages_of(
    columns: TaskColumns, keys: np.ndarray | None, hosts: np.ndarray, fabric: FabricArrays
) -> Messages | None:
    """The messages of a program, None if one waits for another.

    Args:
        columns: The program.
        keys: See `netsim.workload.tasks.Tasks.keys`.
        hosts: Host of each rank.
        fabric: The fabric.
    """
    ends = np.full(len(columns.bytes), UNKNOWN, dtype=np.int64)
    release_ps = release_times(columns.delay_ps, columns.bytes, columns.after_begin, columns.after, ends)
    task = np.flatnonzero(columns.bytes)
    if (release_ps[task] == UNKNOWN).any():
        return None
    return placed(columns, keys, task, release_ps[task], hosts, fabric)


def placed(
    columns: TaskColumns,
    keys: np.ndarray | None,
    task: np.ndarray,
    release_ps: np.ndarray,
    hosts: np.ndarray,
    fabric: FabricArrays,
) -> Messages:
    """Messages whose release is known.

    Args:
        columns: The program.
        keys: See `netsim.workload.tasks.Tasks.keys`.
        task: Tasks with bytes.
        release_ps: When each of them may be sent.
        hosts: Host of each rank.
        fabric: The fabric.
    """
    src, dst = (column[task].astype(np.int64) for column in (columns.src, columns.dst))
    src_host, dst_host = hosts[src], hosts[dst]
    inside, leaves = src_host == dst_host, isqrt(len(fabric.pair))
    pair = fabric.pair[fabric.leaf[src_host] * leaves + fabric.leaf[dst_host]]
    epochs = len(fabric.epoch_ps)
    return Messages(
        task,
        task if keys is None else keys[task],
        src,
        dst,
        src_host,
        dst_host,
        columns.bytes[task],
        release_ps,
        np.where(inside, fabric.inside[src_host], fabric.up[src_host]),
        np.where(inside, fabric.inside[src_host], fabric.down[dst_host]),
        pair,
        pair * epochs + np.searchsorted(fabric.epoch_ps, release_ps, side="right") - 1,
    )


def numbers_of(
    messages: Messages, message: np.ndarray, piece: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of flows and their keys, which are one array if every message has its own draws.

    Args:
        messages: Messages.
        message: That of each flow, by index.
        piece: Place of each flow in its message.
        stride: Largest number of flows of a message.
    """
    identity = messages.task[message] * stride + piece
    return identity, identity if messages.key is messages.task else messages.key[message] * stride + piece


@njit(cache=True)
def release_times(
    delay_ps: np.ndarray, size_bytes: np.ndarray, after_begin: np.ndarray, after: np.ndarray, end_ps: np.ndarray
) -> np.ndarray:
    """Time at which each task may begin, UNKNOWN if it waits for a message whose end is UNKNOWN.

    Args:
        delay_ps: Of each task.
        size_bytes: Of each task.
        after_begin: See `TaskColumns`.
        after: See `TaskColumns`.
        end_ps: When messages end; the ends of tasks without bytes are filled in.
    """
    release_ps = np.empty(len(delay_ps), dtype=np.int64)
    for task in range(len(delay_ps)):
        latest = np.int64(0)
        for place in range(after_begin[task], after_begin[task + 1]):
            end = end_ps[after[place]]
            latest = UNKNOWN if end == UNKNOWN or latest == UNKNOWN else max(latest, end)
        release_ps[task] = UNKNOWN if latest == UNKNOWN else latest + delay_ps[task]
        if not size_bytes[task]:
            end_ps[task] = release_ps[task]
    return release_ps
