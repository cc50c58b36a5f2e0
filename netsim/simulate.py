"""Runs a scenario: every transport with every seed. The only place that names implementations."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from functools import cache, cached_property, lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from netsim.bound import Bound
from netsim.collective import barrier, direct, ring, tree
from netsim.collective.protocol import CollectiveAlgorithm, Message, Operation
from netsim.engine.protocol import Outcome, Scene
from netsim.errors import InputError
from netsim.results import Results, Run, RunEvent
from netsim.scenario import Algorithms, Job, Scenario, TransportConfig, read_scenario
from netsim.topology.leaf_spine import LeafSpine
from netsim.transport.ecmp import Ecmp
from netsim.transport.ethereal import Ethereal
from netsim.transport.protocol import Transport
from netsim.transport.spray import SprayRandom, SprayRoundRobin
from netsim.workload.collective import CollectiveConfig, CollectiveWorkload
from netsim.workload.protocol import Program, Span, Workload
from netsim.workload.trace import TraceConfig, TraceWorkload

PACKET_TRANSPORTS: dict[str, Callable[[int, int], Transport]] = {
    "ecmp": Ecmp,
    "ethereal": Ethereal,
    "spray_round_robin": SprayRoundRobin,
    "spray_random": SprayRandom,
}
_ALGORITHMS: dict[tuple[str, str], CollectiveAlgorithm] = {
    ("all_reduce", "ring"): ring.all_reduce,
    ("all_gather", "ring"): ring.all_gather,
    ("reduce_scatter", "ring"): ring.reduce_scatter,
    ("all_to_all", "direct"): direct.all_to_all,
    ("broadcast", "tree"): tree.broadcast,
}

Work = Sequence[tuple[TransportConfig, int]]
Progress = Callable[[RunEvent], None]


class Prepared:
    """What all runs of a scenario share.

    Args:
        scene: What must happen, and where.
        spans: The collectives among it.
    """

    def __init__(self, scene: Scene, spans: Sequence[Span]) -> None:
        self.scene, self.spans = scene, spans
        self.most_paths = scene.most_paths

    @cached_property
    def bound(self) -> Bound:
        """Lower bound of the completion time."""
        return Bound(self.scene)


def simulate(
    scenario: Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    jobs: int = 1,
    progress: Progress | None = None,
) -> Results:
    """Simulates every transport of a scenario with every seed.

    Args:
        scenario: A YAML file, or what one would contain.
        overrides: ``dotted.key=value`` changes to it.
        jobs: Processes to use, at least 1; the results do not depend on it.
        progress: Called when a run starts and when it ends.

    Returns:
        All runs, transports in the scenario's order, each with its seeds in order.

    Raises:
        ValueError: The scenario, or a trace it names, is wrong (`netsim.errors.InputError`).
    """
    read = read_scenario(scenario, overrides)
    source = str(scenario) if isinstance(scenario, Path) else "scenario"
    prepared = prepare(read, source)
    work = [(transport, seed) for transport in read.transports for seed in read.seeds]
    report = progress or (lambda _: None)
    if min(jobs, len(work)) > 1:
        runs = dict(_parallel(read, source, work, min(jobs, len(work)), report))
    else:
        runs = dict(_one_by_one(prepared, work, report))
    in_order = [runs[transport.name, seed] for transport, seed in work]
    return Results(read.resolved(), prepared.scene.topology.links, prepared.spans, in_order)


def _one_by_one(prepared: Prepared, work: Work, progress: Progress) -> Iterator[tuple[tuple[str, int], Run]]:
    for transport, seed in work:
        progress(RunEvent(transport.name, seed, len(work), None))
        run = run_one(prepared, transport, seed)
        progress(RunEvent(transport.name, seed, len(work), run))
        yield (transport.name, seed), run


def _parallel(
    scenario: Scenario, source: str, work: Work, jobs: int, progress: Progress
) -> Iterator[tuple[tuple[str, int], Run]]:
    """Each process prepares the scenario once and lives as long as the comparison."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = list(reversed(work))
        running: dict[Future[Run], tuple[str, int]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                transport, seed = waiting.pop()
                progress(RunEvent(transport.name, seed, len(work), None))
                running[pool.submit(_run_in_worker, scenario, source, transport, seed)] = transport.name, seed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, seed = running.pop(future)
                progress(RunEvent(name, seed, len(work), future.result()))
                yield (name, seed), future.result()


def _run_in_worker(scenario: Scenario, source: str, transport: TransportConfig, seed: int) -> Run:
    return run_one(_prepared_in_worker(scenario, source), transport, seed)


@lru_cache(maxsize=1)
def _prepared_in_worker(scenario: Scenario, source: str) -> Prepared:
    return prepare(scenario, source)


def run_one(prepared: Prepared, transport: TransportConfig, seed: int) -> Run:
    """Simulates one transport with one seed.

    Args:
        prepared: What to simulate.
        transport: One of the scenario's transports.
        seed: Seed of all draws.
    """
    started = time.perf_counter()
    outcome, engine = _simulate(prepared, transport, seed)
    bound_ps = prepared.bound.of_run(outcome.last_sent)
    wall_s = time.perf_counter() - started
    return Run(transport.name, seed, engine, bound_ps, outcome, prepared.spans, wall_s)


def _simulate(prepared: Prepared, transport: TransportConfig, seed: int) -> tuple[Outcome, str]:
    if transport.kind == "ideal":
        from netsim.engine.fluid import FluidEngine

        return FluidEngine(prepared.scene).run(), "fluid"
    from netsim.engine.reference import ReferenceEngine

    chosen = PACKET_TRANSPORTS[transport.kind](seed, prepared.most_paths)
    return ReferenceEngine(prepared.scene, chosen, seed).run(), "simpy"


def prepare(scenario: Scenario, source: str) -> Prepared:
    """Reads the workloads of a scenario and lays them out on its fabric.

    Args:
        scenario: What to simulate.
        source: Name of the scenario in messages.

    Raises:
        InputError: A workload does not fit the fabric or its ranks.
    """
    topology = LeafSpine(scenario.topology)
    places = topology.hosts * topology.ranks_per_host
    hosts = _hosts(scenario, source, places, topology.ranks_per_host)
    program = Program()
    schedules = cache(partial(_schedule, scenario.algorithms))
    for index, job in enumerate(_jobs(scenario)):
        workload = _workload(job.workload)
        field = "workload" if scenario.jobs is None else f"jobs.{index}"
        needed = workload.size(len(job.ranks or hosts))
        ranks = job.ranks or range(needed)
        if len(ranks) != needed:
            problem = f"the workload has {needed} ranks, the job lists {len(ranks)}"
            raise InputError(source, f"{field}.ranks", problem, f"list {needed} ranks")
        if max(ranks) >= len(hosts):
            problem = f"rank {max(ranks)} has no host ({len(hosts)} ranks fit)"
            raise InputError(source, field, problem, "raise topology.leaves, hosts_per_leaf or ranks_per_host")
        workload.extend(program, ranks, job.start, schedules)
    scene = Scene(topology, hosts, program.tasks, scenario.packet, scenario.nic)
    return Prepared(scene, program.spans)


def _hosts(scenario: Scenario, source: str, places: int, ranks_per_host: int) -> list[int]:
    """Host of each rank."""
    order = scenario.rank_order or tuple(range(places))
    if len(order) > places:
        problem = f"lists {len(order)} ranks, {places} fit"
        raise InputError(source, "rank_order", problem, "shorten it, or raise topology.leaves or hosts_per_leaf")
    if sorted(order) != list(range(len(order))):
        absent = min(set(range(len(order))) - set(order))
        raise InputError(source, "rank_order", f"lacks rank {absent}", f"list each of 0..{len(order) - 1} once")
    place = {rank: position for position, rank in enumerate(order)}
    return [place[rank] // ranks_per_host for rank in range(len(order))]


class _WholeFabric(NamedTuple):
    """The one job of a scenario without `jobs`."""

    workload: CollectiveConfig | TraceConfig
    ranks: None = None
    start: int = 0


def _jobs(scenario: Scenario) -> Sequence[Job | _WholeFabric]:
    return scenario.jobs or ([_WholeFabric(scenario.workload)] if scenario.workload else [])


def _workload(config: CollectiveConfig | TraceConfig) -> Workload:
    return CollectiveWorkload(config) if isinstance(config, CollectiveConfig) else TraceWorkload(config)


def _schedule(algorithms: Algorithms, operation: Operation) -> list[Message]:
    match operation.op:
        case "send":
            return direct.send(operation)
        case "barrier":
            return barrier.barrier(operation)
        case op:
            return _ALGORITHMS[op, getattr(algorithms, op)](operation)
