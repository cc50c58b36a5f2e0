"""Arrays of a scene, shared by all its runs whatever the transport and the seed."""

from math import isqrt
from typing import NamedTuple

import numpy as np

from netsim.engine.core.fabric import FabricArrays, fabric_arrays
from netsim.engine.exact.messages import Messages, messages_of
from netsim.engine.protocol import Scene
from netsim.workload.tasks import TaskColumns


class Layout(NamedTuple):
    """A scene as arrays."""

    fabric: FabricArrays  # links and routes
    columns: TaskColumns  # tasks
    keys: np.ndarray | None  # of draws, by task; None: its number
    messages: Messages | None  # tasks with bytes; None if one waits for another
    # Links between switches, every link before those it feeds; None if they feed each other in a circle
    inner: np.ndarray | None
    leaf: np.ndarray  # destination leaf of each pair of leaves
    place: np.ndarray  # place of each host among the hosts of its leaf
    steps: np.ndarray  # links of all routes laid end to end, -1 behind each; route w begins at w * `stride`
    stride: int  # entries of a route in `steps`
    most_paths: int  # largest number of paths between two hosts that talk to each other


_last: list[tuple[Scene, Layout]] = []


def layout_of(scene: Scene) -> Layout:
    """The layout of a scene; that of the latest scene is kept for its next run."""
    if not _last or any(mine is not kept for mine, kept in zip(scene, _last[0][0], strict=True)):
        _last.clear()
        _last.append((scene, _lay_out(scene)))
    return _last[0][1]


def _lay_out(scene: Scene) -> Layout:
    fabric, columns, keys = fabric_arrays(scene), scene.tasks.columns(), scene.tasks.keys
    routes, longest = fabric.route_links.shape
    steps = np.full((routes, longest + 1), -1, dtype=np.int64)
    steps[:, :longest] = fabric.route_links
    return Layout(
        fabric,
        columns,
        keys,
        messages_of(columns, keys, np.asarray(scene.hosts, dtype=np.int64), fabric),
        in_order(_links_in_use(fabric), len(fabric.delay_ps)),
        np.flatnonzero(fabric.pair >= 0) % isqrt(len(fabric.pair)),
        np.array(scene.routes.places, dtype=np.int64),
        steps.ravel(),
        longest + 1,
        max(1, np.diff(fabric.route_begin).max(initial=0)),
    )


def _links_in_use(fabric: FabricArrays) -> np.ndarray:
    """Rows of `route_links` of all routes that are usable in some epoch."""
    pair = np.repeat(np.arange(len(fabric.usable_begin) - 1) // len(fabric.epoch_ps), np.diff(fabric.usable_begin))
    return fabric.route_links[np.unique(fabric.route_begin[pair] + fabric.usable)]


def in_order(routes: np.ndarray, links: int) -> np.ndarray | None:
    """Topological order of the links of `routes`: each before its successors on a route; None if there is a cycle."""
    before, after = routes[:, :-1].ravel(), routes[:, 1:].ravel()
    before, after = before[after >= 0], after[after >= 0]
    level = np.zeros(links, dtype=np.int64)
    while len(after):
        fed = np.zeros(links, dtype=bool)
        fed[after] = True
        level += fed
        waits = fed[before]
        if waits.all():
            return None
        before, after = before[waits], after[waits]
    used = np.unique(routes[routes >= 0])
    return used[np.argsort(level[used], kind="stable")]
