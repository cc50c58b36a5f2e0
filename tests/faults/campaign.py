"""Runs that faults happen to, each compared with one that nothing happened to."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.faults.cluster import ROOT, Cluster, cluster
from tests.faults.disk import block_device, small_disk
from tests.faults.faults import KINDS, Run
from tests.faults.verdict import differences
from tests.faults.watch import Watch

LAST_STEP, SAVE_EVERY, KEPT = 40, 5, 3
STARTS_AT_MOST, SECONDS_AT_LEAST = 20.0, 150.0
"""How long a run may take: so many times its first start or the undisturbed one, and no fewer seconds."""
UNKNOWN_START_S = 60.0
_PAUSE_S = 0.01
_DISK_BYTES, _DEVICE_BYTES = 16_000_000, 100_000_000
_SETTINGS = (
    str(ROOT / "configs" / "runs" / "digits_moe.yaml"),
    *("model.num_layers=2", "model.hidden=32", "model.dropout=0.1", "moe.expert_hidden=32"),
    *(f"optim.steps={LAST_STEP}", f"checkpoint.every={SAVE_EVERY}", f"checkpoint.keep={KEPT}"),
    *("evaluate.every=20", "sample.every=null", "observe.log_every=1", "trace.steps=[]", "trace.ranks_per_node=1"),
)


class Reference(NamedTuple):
    """A run that nothing happened to.

    Args:
        folder: of the run.
        start_s: from the command to the first step.
    """

    folder: Path
    start_s: float


class Plan(NamedTuple):
    """What shall happen to a run.

    Args:
        nodes: nodes of the run, each in a namespace of its own if there are several.
        zero_stage: what the engine shards.
        faults: step after which, and kind of each fault, in the order of steps.
        seed: of what the faults draw.
    """

    nodes: int
    zero_stage: int
    faults: tuple[tuple[int, str], ...]
    seed: str

    @property
    def world_size(self) -> int:
        """Ranks of the run: two on one node, or one on each."""
        return max(2, self.nodes)


class Outcome(NamedTuple):
    """What became of a run.

    Args:
        plan: what was to happen.
        told: what did happen.
        begins: steps after which the ranks began to train, and the steps lost each time.
        codes: how the launchers ended before they were started again.
        complaints: what is not as it must be; none: the run is good.
        seconds: how long it took.
    """

    plan: Plan
    told: Sequence[str]
    begins: Sequence[tuple[int, int]]
    codes: Sequence[int]
    complaints: Sequence[str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON holds it."""
        return {**self._asdict(), "plan": self.plan._asdict(), "good": not self.complaints}


def plans(runs: int, seed: int, kinds: Sequence[str], nodes_at_most: int) -> list[Plan]:
    """Draws what shall happen: every kind of fault in turn, and as often as not another one after it.

    Args:
        runs: how many.
        seed: of the draws.
        kinds: names of the faults to draw from.
        nodes_at_most: 1 where there can be no namespaces.
    """
    drawn = []
    for index in range(runs):
        draw = Random(f"{seed}/{index}")
        first = kinds[index % len(kinds)]
        nodes = draw.randint(KINDS[first].nodes, max(KINDS[first].nodes, nodes_at_most))
        chosen = [first]
        if draw.random() < 0.5:
            chosen.append(draw.choice([kind for kind in kinds if _go_together(first, kind, nodes)]))
        steps = sorted(draw.sample(range(2, LAST_STEP - 2), len(chosen)))
        drawn.append(Plan(nodes, draw.choice((1, 2)), tuple(zip(steps, chosen, strict=True)), f"{seed}/{index}/faults"))
    return drawn


def _go_together(first: str, second: str, nodes: int) -> bool:
    """Whether a fault can happen to a run on so many nodes after another one; a run has one disk of its own kind."""
    disks = {fault.small_disk - fault.device for fault in (KINDS[first], KINDS[second])}
    return KINDS[second].nodes <= nodes and disks != {1, -1}


def undisturbed(folder: Path, world_size: int, zero_stage: int) -> Reference:
    """Runs to the end on one node, and nothing happens.

    Args:
        folder: of the run.
        world_size: its ranks.
        zero_stage: what the engine shards.

    Raises:
        RuntimeError: it failed; the message names its log.
    """
    log = folder.with_suffix(".log")
    watch = Watch(folder, log, UNKNOWN_START_S)
    with cluster(1, world_size, _settings(folder, world_size, zero_stage), log, apart=False) as one:
        _play(one, watch, [])
        if one.nodes[0].codes:
            raise RuntimeError(f"the undisturbed run failed; see {log}")
    return Reference(folder, watch.begins[0].seconds)


def disturbed(plan: Plan, reference: Reference, folder: Path) -> Outcome:
    """Lets the faults of a plan happen to a run and judges how it ends.

    Args:
        plan: what shall happen.
        reference: the undisturbed run.
        folder: of this one.

    Returns:
        The outcome; whatever goes wrong on the way is a complaint, so that the next run gets its turn.
    """
    begun = time.monotonic()
    log = folder.with_suffix(".log")
    told: list[str] = []
    complaints: list[str] = []
    codes: list[int] = []
    watch = Watch(folder, log, reference.start_s)
    try:
        _disturb(plan, folder, watch, told, codes)
        lost_saves = max(KINDS[kind].lost_saves for _, kind in plan.faults)
        complaints += [f"lost {b.lost} steps" for b in watch.begins if b.lost > lost_saves * SAVE_EVERY]
        if not complaints:
            complaints += differences(reference.folder, folder, LAST_STEP)
    except Exception as error:  # a deadline, a process that does not die, a file that cannot be read
        complaints.append(" ".join(str(error).split()) or type(error).__name__)
    begins = [(begin.after, begin.lost) for begin in watch.begins]
    return Outcome(plan, told, begins, codes, complaints, time.monotonic() - begun)


def _disturb(plan: Plan, folder: Path, watch: Watch, told: list[str], codes: list[int]) -> None:
    """Plays a plan; notes what happened and how the launchers ended, however it goes."""
    draw = Random(plan.seed)
    with ExitStack() as stack:
        faults = [KINDS[kind] for _, kind in plan.faults]
        device = None
        if any(fault.device for fault in faults):
            device = stack.enter_context(block_device(folder, _DEVICE_BYTES))
        if any(fault.small_disk for fault in faults):
            stack.enter_context(small_disk(folder / "checkpoints", _DISK_BYTES))
        settings = _settings(folder, plan.world_size, plan.zero_stage)
        keep = KEPT
        if all(fault.device for fault in faults):
            keep = 1  # nothing older to resume from
            settings += [f"checkpoint.keep={keep}", f"checkpoint.asynchronous={str(draw.random() < 0.5).lower()}"]
        ranks_per_node = plan.world_size // plan.nodes
        log = folder.with_suffix(".log")
        nodes = stack.enter_context(cluster(plan.nodes, ranks_per_node, settings, log, apart=plan.nodes > 1))
        stack.callback(lambda: codes.extend(code for node in nodes.nodes for code in node.codes))
        run = Run(nodes, watch, folder / "checkpoints", SAVE_EVERY, keep, device)
        _play(
            nodes,
            watch,
            [(step, lambda kind=kind: told.append(KINDS[kind].strike(run, draw))) for step, kind in plan.faults],
        )


def _play(nodes: Cluster, watch: Watch, strikes: Sequence[tuple[int, Any]]) -> None:
    """Tends the nodes until the run is over and lets each fault strike when its step has been taken."""
    pending = list(strikes)
    begun = time.monotonic()
    while not nodes.tend():
        step = watch.look()
        if pending and step >= pending[0][0]:
            pending.pop(0)[1]()
            watch.look()  # what was taken until then, before the next start cuts the figures back
        patience_s = watch.patience_s(STARTS_AT_MOST, SECONDS_AT_LEAST)
        if time.monotonic() > begun + patience_s:
            raise RuntimeError(f"does not end within {patience_s:.0f} s")
        time.sleep(_PAUSE_S)
    watch.look()
    if any(node.code() for node in nodes.nodes):
        raise RuntimeError("a start was refused")


def _settings(folder: Path, world_size: int, zero_stage: int) -> list[str]:
    """Two experts or four a rank, and whole micro batches."""
    sizes = (
        f"parallel.expert={world_size}",
        f"moe.num_experts={4 * world_size}",
        f"optim.global_batch={16 * world_size}",
    )
    return [*_SETTINGS, *sizes, f"engine.zero_stage={zero_stage}", f"run.dir={folder}"]
