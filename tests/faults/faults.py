"""What can happen to a run."""

import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

from tests.faults.cluster import Cluster, kill
from tests.faults.disk import BlockDevice
from tests.faults.watch import Watch
from trainer.checkpoint.directory import complete_steps, step_folder, step_of
from trainer.checkpoint.intact import newest_apparently_intact

_STARTS_AT_MOST, _SECONDS_AT_LEAST = 4.0, 30.0
"""How long a consequence of a fault is awaited: so many starts of the run, and no fewer seconds."""
_PAUSE_S = 0.01


class Run(NamedTuple):
    """A run that something happens to.

    Args:
        cluster: its nodes.
        watch: how far it is.
        checkpoints: the folder of its checkpoints; where the disk can be filled, a file system of its own.
        save_every: steps between two checkpoints.
        keep: checkpoints that stay.
        device: the block device of its folder, where it has one of its own.
    """

    cluster: Cluster
    watch: Watch
    checkpoints: Path
    save_every: int
    keep: int
    device: BlockDevice | None = None


class Fault(NamedTuple):
    """A kind of fault.

    Args:
        strike: lets it happen and says what it did; ends when the cause is gone, not its consequences.
        nodes: number of nodes from which on it is possible.
        small_disk: the checkpoints must be on a file system of their own.
        device: the run's folder must be on a block device of its own.
        lost_saves: how many times the steps between two checkpoints it may cost: none where the run is told, one
            where it is not, two where the newest checkpoint is spoilt.
    """

    strike: Callable[[Run, Random], str]
    nodes: int = 1
    small_disk: bool = False
    device: bool = False
    lost_saves: int = 1


def _kill_rank(run: Run, draw: Random) -> str:
    ranks = run.cluster.ranks()
    if not ranks:
        return "no rank to kill"
    rank = draw.choice(sorted(ranks))
    kill(ranks[rank])
    return f"rank {rank} killed"


def _kill_agent(run: Run, draw: Random) -> str:
    node = draw.choice(run.cluster.nodes)
    agent = node.agent()
    if agent is None:
        return "no agent to kill"
    ranks = set(node.ranks().values())
    kill(agent)
    _until(run, lambda: not ranks & set(node.ranks().values()), f"ranks of node {node.number} outlive their agent")
    return f"agent of node {node.number} killed"


def _stop(run: Run, _: Random) -> str:
    for node in run.cluster.nodes:
        node.tell_to_stop()
    _until(run, lambda: all(node.code() is not None for node in run.cluster.nodes), "stopped and does not end")
    codes = [node.code() for node in run.cluster.nodes]
    if any(code not in (0, 75) for code in codes):
        raise RuntimeError(f"stopped, ends with {codes} and not with 75")
    return "stopped"


def _stop_node(run: Run, draw: Random) -> str:
    node = draw.choice(run.cluster.nodes)
    node.tell_to_stop()
    _until(run, lambda: node.code() is not None, "stopped and does not end")
    return f"node {node.number} stopped"


def _kill_node(run: Run, draw: Random) -> str:
    node = draw.choice(run.cluster.nodes)
    node.kill()
    return f"node {node.number} killed"


def _cut_power(run: Run, _: Random) -> str:
    """All nodes and the disk: what was in memory is lost, and what the run resumes from must have been on the disk."""
    assert run.device is not None
    processes = [process for node in run.cluster.nodes for process in node.processes()]
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
    seen = complete_steps(run.checkpoints)
    pruned = len(seen) <= run.keep and min(seen, default=0) > run.save_every
    flushed = seen if pruned else seen[:-1]  # an older one goes only when the newest is on the disk
    copy = run.device.cut()
    for node in run.cluster.nodes:
        node.kill()
    run.device.restore(copy)
    found, _damaged = newest_apparently_intact(run.checkpoints, allow_rng_loss=False, read_bytes=1 << 30)
    if step_of(found) < max(flushed, default=0):
        raise RuntimeError(
            f"step {max(flushed)} was flushed, and after a power cut step {step_of(found)} is the newest"
        )
    return f"power cut with checkpoints {seen}, {complete_steps(run.checkpoints)} left"


def _cut_link(run: Run, draw: Random) -> str:
    made, host, seconds = run.cluster.made, draw.randrange(len(run.cluster.nodes)), draw.uniform(0.5, 4.0)
    assert made is not None
    made.cut(host)
    try:
        time.sleep(seconds)
    finally:
        made.mend(host)
    return f"link of node {host} cut for {seconds:.1f} s"


def _fill_disk(run: Run, draw: Random) -> str:
    """Leaves a part of a checkpoint's room, or less if the ranks write meanwhile, until they have failed."""
    newest = complete_steps(run.checkpoints)
    needed = _size(step_folder(run.checkpoints, newest[-1])) if newest else 1_000_000
    disk = os.statvfs(run.checkpoints)
    room = int(draw.uniform(0.05, 0.8) * needed)
    ballast = run.checkpoints / "ballast"
    begins = len(run.watch.begins)
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        for _ in range(max(0, math.ceil((disk.f_bavail * disk.f_frsize - room) / 4096))):
            file.write(bytes(4096))
    try:
        _until(run, lambda: _over(run) or _began_again(run, begins), "disk is full and nothing happens")
    finally:
        ballast.unlink(missing_ok=True)
    return f"disk full, {room / needed:.0%} of a checkpoint fits"


def _truncate(run: Run, draw: Random) -> str:
    def shorten(path: Path) -> str:
        whole = path.stat().st_size
        size = draw.randrange(whole)
        os.truncate(path, size)
        return f"cut to {size} of {whole} bytes"

    return _damage(run, draw, shorten)


def _flip(run: Run, draw: Random) -> str:
    def flip(path: Path) -> str:
        place = draw.randrange(path.stat().st_size)
        with path.open("r+b") as file:
            file.seek(place)
            old = file.read(1)[0]
            file.seek(place)
            file.write(bytes([old ^ 1 << draw.randrange(8)]))
        return f"a bit of byte {place} flipped"

    return _damage(run, draw, flip)


KINDS: dict[str, Fault] = {
    "rank killed": Fault(_kill_rank),
    "agent killed": Fault(_kill_agent),
    "stopped": Fault(_stop, lost_saves=0),
    "disk full": Fault(_fill_disk, small_disk=True),
    "checkpoint truncated": Fault(_truncate, lost_saves=2),
    "checkpoint flipped": Fault(_flip, lost_saves=2),
    "node killed": Fault(_kill_node, nodes=2),
    "node stopped": Fault(_stop_node, nodes=2, lost_saves=0),
    "link cut": Fault(_cut_link, nodes=2),
    "power cut": Fault(_cut_power, device=True, lost_saves=2),
}
"""Every kind of fault by its name."""


def _damage(run: Run, draw: Random, spoil: Callable[[Path], str]) -> str:
    """Kills all nodes, and spoils a file of the newest complete checkpoint, of two at least, before they come back."""
    _until(run, lambda: len(complete_steps(run.checkpoints)) > 1 or _over(run), "saves no second checkpoint")
    for node in run.cluster.nodes:
        node.kill()
    steps = complete_steps(run.checkpoints)
    folder = step_folder(run.checkpoints, steps[-1])
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size))
    return f"all nodes killed, {path.relative_to(run.checkpoints)} {spoil(path)}"


def _began_again(run: Run, begins: int) -> bool:
    run.watch.look()
    return len(run.watch.begins) > begins


def _over(run: Run) -> bool:
    return any(node.code() is not None for node in run.cluster.nodes)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _until(run: Run, condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + run.watch.patience_s(_STARTS_AT_MOST, _SECONDS_AT_LEAST)
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint)
        time.sleep(_PAUSE_S)
