"""Begin and end of tasks in an open loop: no message waits for another."""

from math import isqrt
from typing import NamedTuple

import numpy as np

from netsim.engine import _core
from netsim.engine.core.fabric import FabricArrays
from netsim.workload.tasks import TaskColumns

UNKNOWN = -1
"""End of a message that has not been simulated yet, and of every task that waits for it."""


class Messages(NamedTuple):
    """Tasks with bytes, by index. Arrays of int64, one entry a message."""

    task: np.ndarray  # index of the task
    key: np.ndarray  # what draws take in its place
    src: np.ndarray  # source rank
    dst: np.ndarray  # destination rank
    src_host: np.ndarray  # host of the source
    dst_host: np.ndarray  # host of the destination
    bytes: np.ndarray  # payload
    release_ps: np.ndarray  # when the source may send it
    link: np.ndarray  # first link of its paths: the host's own, or the one inside
    exit: np.ndarray  # last link of its paths
    pair: np.ndarray  # its pair of leaves in `FabricArrays`
    usable: np.ndarray  # row of `FabricArrays.usable_begin` at its release


def messages_of(
    columns: TaskColumns, keys: np.ndarray | None, hosts: np.ndarray, fabric: FabricArrays
) -> Messages | None:
    """The messages of a program, None if one waits for another."""
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
    """The messages of `task`, which are released at `release_ps`."""
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
    """Ids and draw keys of flows; both are the same array if every message has its own draws."""
    identity = messages.task[message] * stride + piece
    return identity, identity if messages.key is messages.task else messages.key[message] * stride + piece


def release_times(
    delay_ps: np.ndarray, size_bytes: np.ndarray, after_begin: np.ndarray, after: np.ndarray, end_ps: np.ndarray
) -> np.ndarray:
    """When each task may begin, UNKNOWN if it waits for an UNKNOWN end; fills in the ends of tasks without bytes."""
    release_ps = np.empty(len(delay_ps), dtype=np.int64)
    _core.release_times(delay_ps, size_bytes, after_begin, after, end_ps, release_ps)
    return release_ps
