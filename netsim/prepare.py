"""Prepares a scenario: fabric, hosts of ranks, tasks and lower bound, which all its runs share."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from netsim.bound import Bound
from netsim.collective.build import Schedules, Use
from netsim.engine.buffers import limits_of
from netsim.engine.protocol import Engine, Scene
from netsim.engines import refusal, seen_by
from netsim.errors import InputError
from netsim.scenario import Job, Scenario, WorkloadConfig
from netsim.seats import Seats, room, seats_of, with_gpu_links
from netsim.topology.build import build_topology
from netsim.topology.failure import Rates
from netsim.topology.protocol import Topology
from netsim.topology.routes import Routes
from netsim.transport.build import PACKET_TRANSPORTS, build_transport
from netsim.transport.config import SubflowsConfig, TransportConfig
from netsim.transport.protocol import Transport
from netsim.workload.background import BackgroundConfig, BackgroundWorkload
from netsim.workload.chakra.workload import ChakraConfig, ChakraWorkload
from netsim.workload.collective import CollectiveConfig, CollectiveWorkload
from netsim.workload.flows import FlowsConfig, FlowsWorkload
from netsim.workload.goal.workload import GoalConfig, GoalWorkload
from netsim.workload.keys import keys_of
from netsim.workload.matrix import MatrixConfig, MatrixWorkload
from netsim.workload.protocol import Program, Span, Tasks, TraceOrigin, Workload
from netsim.workload.simccl import SimcclConfig, SimcclWorkload
from netsim.workload.trace import TraceConfig, TraceWorkload


class LaidOut(NamedTuple):
    """What the workloads of a scenario become.

    Args:
        tasks: Of all workloads.
        spans: Their collectives.
        notices: Remarks for the user on how the workloads were read.
        recorded_ps: Duration of each optimiser step in the recorded run, if the workload was recorded.
        traces: The traces among the workloads, in the order of the jobs.
        algorithms: How often each algorithm of a collective was used.
    """

    tasks: Tasks
    spans: Sequence[Span]
    notices: Sequence[str]
    recorded_ps: Mapping[int, int]
    traces: Sequence[TraceOrigin]
    algorithms: Mapping[Use, int]


class Prepared:
    """A prepared scenario, shared by all its runs.

    Args:
        scene: Tasks and fabric.
        transports: Transports to simulate, for the lower bound.
        laid_out: The workloads; its fields but the tasks are attributes of this object too.
        engine: The scenario's choice of engine.
        fast_forward: Whether runs may skip what repeats.
    """

    def __init__(
        self,
        scene: Scene,
        transports: Sequence[TransportConfig],
        laid_out: LaidOut,
        engine: Engine = "auto",
        fast_forward: bool = False,
    ) -> None:
        self.scene, self.laid_out, self._transports = scene, laid_out, transports
        self.engine: Engine = engine
        self.fast_forward = fast_forward
        _, self.spans, self.notices, self.recorded_ps, self.traces, self.algorithms = laid_out
        self.most_paths = scene.most_paths

    @cached_property
    def bound(self) -> Bound:
        """Lower bound of the completion time."""
        parts = [transport.count for transport in self._transports if isinstance(transport, SubflowsConfig)]
        kinds = {transport.kind for transport in self._transports}
        scene = self.scene._replace(tasks=self.scene.tasks.in_foreground)
        return Bound(scene, parts, "own" in kinds, "ethereal" in kinds)


def prepare(scenario: Scenario, source: str, laid_out: LaidOut | None = None) -> Prepared:
    """Reads the workloads of a scenario and lays them out on its fabric.

    Args:
        scenario: What to simulate.
        source: Name of the scenario in messages.
        laid_out: The same workloads laid out on the same fabric, which are not read again then.

    Raises:
        InputError: A workload does not fit the fabric or its ranks.
    """
    topology = build_topology(scenario.topology)
    try:
        rates = Rates(topology, scenario.topology.failures)
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise InputError(source, field, *problem.split("; ", 1)) from None
    _refuse_own_transports(scenario, source)
    _refuse_detours(scenario, source)
    routes = Routes(topology, rates)
    seats = seats_of(topology, _places(scenario, source, room(topology)))
    _refuse_watched(scenario, source, len(seats.hosts))
    known = laid_out or _lay_out(scenario, source, topology, seats)
    scene = Scene(
        topology,
        rates,
        routes,
        seats.ends,
        known.tasks,
        scenario.packet,
        scenario.nic,
        scenario.topology.queue,
        scenario.congestion,
        scenario.recovery,
        scenario.flow_control,
        scenario.acknowledgement,
        limits=scenario.limits,
        watch=scenario.watch,
        buffer=scenario.topology.buffer,
        classes=len(scenario.classes or ("",)),
        link_errors=scenario.topology.link_errors,
    )
    prepared = Prepared(scene, scenario.transports, known, scenario.engine, scenario.fast_forward)
    if laid_out is None:
        _refuse_small_memory(scene, source)
        for seen in {id(one): one for one in (seen_by(scene, each) for each in scenario.transports)}.values():
            _refuse_unreachable(seen, source)
        _refuse_engine(prepared, scenario, source)
    return prepared


def _refuse_watched(scenario: Scenario, source: str, ranks: int) -> None:
    """Refuses to watch flows of ranks that do not exist."""
    pairs = () if scenario.watch is None else scenario.watch.flows
    for number, pair in enumerate(pairs):
        if max(pair) >= ranks:
            problem = f"rank {max(pair)} has no host ({ranks} ranks fit)"
            raise InputError(source, f"watch.flows.{number}", problem, f"name ranks from 0 to {ranks - 1}")


def _lay_out(scenario: Scenario, source: str, topology: Topology, seats: Seats) -> LaidOut:
    """Reads the workloads of a scenario."""
    hosts = seats.hosts
    program = Program()
    notices: list[str] = []
    packet = scenario.packet
    schedules = Schedules(scenario.algorithms, seats, source, topology, packet.payload, packet.header)
    for index, job in enumerate(_jobs(scenario)):
        workload = _workload(job.workload, topology, hosts)
        field = "workload" if scenario.jobs is None else f"jobs.{index}"
        needed = workload.size(len(job.ranks or hosts))
        ranks = job.ranks or range(needed)
        if len(ranks) != needed:
            problem = f"the workload has {needed} ranks, the job lists {len(ranks)}"
            raise InputError(source, f"{field}.ranks", problem, f"list {needed} ranks")
        if max(ranks) >= len(hosts):
            problem = f"rank {max(ranks)} has no host ({len(hosts)} ranks fit)"
            raise InputError(source, field, problem, "take a larger topology, or raise ranks_per_host")
        program.tasks.mark(_number_of_class(scenario, job.workload), isinstance(job.workload, BackgroundConfig))
        workload.extend(program, ranks, job.start, schedules)
        notices += workload.notices
    tasks = with_gpu_links(program.tasks, seats)
    if scenario.draws == "collective":
        tasks = tasks.with_keys(keys_of(program.tasks.columns(), program.collectives))
    return LaidOut(tasks, program.spans, notices, program.recorded_ps, program.traces, schedules.used)


def _number_of_class(scenario: Scenario, workload: WorkloadConfig) -> int:
    """Place of a workload's class among the scenario's."""
    name = workload.traffic_class
    return scenario.classes.index(name) if scenario.classes and name else 0


def _refuse_small_memory(scene: Scene, source: str) -> None:
    """Refuses shared memory that has no room for the packets that come after a pause."""
    if scene.buffer is None or scene.flow_control.kind != "pfc":
        return
    limits = limits_of(scene)
    for link, node in zip(scene.topology.links, limits.source, strict=True):
        if not link.src.startswith("host") and limits.pool[node] <= 0:
            needed = scene.buffer.size - limits.pool[node]
            problem = f"{link.src} needs {needed} B of headroom for its links, and memory beyond"
            raise InputError(source, "topology.buffer.size", problem, "raise it, or shorten the links' delay")


def _workload(config: WorkloadConfig, topology: Topology, hosts: Sequence[int]) -> Workload:
    """The workload of a section ``workload``; files are read when they are needed."""
    match config:
        case BackgroundConfig():
            return BackgroundWorkload(config, topology, hosts)
        case CollectiveConfig():
            return CollectiveWorkload(config)
        case TraceConfig():
            return TraceWorkload(config)
        case FlowsConfig():
            return FlowsWorkload(config)
        case MatrixConfig():
            return MatrixWorkload(config)
        case GoalConfig():
            return GoalWorkload(config)
        case SimcclConfig():
            return SimcclWorkload(config)
        case ChakraConfig():
            return ChakraWorkload(config)


def _refuse_unreachable(scene: Scene, source: str) -> None:
    """Refuses a message without a path that works at the beginning."""
    topology, leaves = scene.topology, len(scene.topology.tiers[0])
    down = scene.rates.known_down()[0][1]
    pairs = np.flatnonzero(scene.talking)
    cut = np.array([not scene.routes.usable_ways(*divmod(pair, leaves), 0) for pair in pairs.tolist()], dtype=bool)
    if not down and not cut.any():
        return
    columns, hosts = scene.tasks.columns(), np.asarray(scene.hosts, dtype=np.int64)
    moves = columns.bytes > 0
    asked = np.unique(hosts[columns.src[moves]] * topology.hosts + hosts[columns.dst[moves]])
    for src, dst in (divmod(pair, topology.hosts) for pair in asked.tolist()):
        if not scene.routes.usable(src, dst):
            problem = f"no path leads from host{src} to host{dst}"
            raise InputError(source, "topology", problem, "add links, or take failures at 0us away")


def _refuse_own_transports(scenario: Scenario, source: str) -> None:
    """Refuses a transport class of the user that cannot be found, or does not accept its options."""
    for index, transport in enumerate(scenario.transports):
        if transport.kind == "own":
            try:
                build_transport(transport, seed=0, most_paths=1)
            except ValueError as error:
                problem, _, remedy = str(error).partition("; ")
                raise InputError(source, f"transports.{index}", problem, remedy) from None


def _refuse_detours(scenario: Scenario, source: str) -> None:
    """Refuses transports that take detours on a fabric that has none."""
    for index, transport in enumerate(scenario.transports):
        detours = PACKET_TRANSPORTS.get(transport.kind, Transport).takes_detours
        if detours and scenario.topology.kind not in ("dragonfly", "torus"):
            problem = f"{transport.name} takes detours, and a {scenario.topology.kind} has none"
            raise InputError(source, f"transports.{index}", problem, "take topology.kind dragonfly or torus")


def _refuse_engine(prepared: Prepared, scenario: Scenario, source: str) -> None:
    """Refuses an engine that cannot simulate one of the transports."""
    for transport in scenario.transports:
        why = refusal(scenario.engine, prepared.scene, transport, prepared.most_paths)
        if why is not None:
            problem = f"{scenario.engine} cannot simulate {transport.name}: {why}"
            raise InputError(source, "engine", problem, "write engine: auto, or take the transport out")


def _places(scenario: Scenario, source: str, places: int) -> list[int]:
    """Place of each rank."""
    order = scenario.rank_order or tuple(range(places))
    if len(order) > places:
        problem = f"lists {len(order)} ranks, {places} fit"
        raise InputError(source, "rank_order", problem, "shorten it, or take a larger topology")
    if sorted(order) != list(range(len(order))):
        absent = min(set(range(len(order))) - set(order))
        raise InputError(source, "rank_order", f"lacks rank {absent}", f"list each of 0..{len(order) - 1} once")
    place = {rank: position for position, rank in enumerate(order)}
    return [place[rank] for rank in range(len(order))]


class _WholeFabric(NamedTuple):
    """The one job of a scenario without `jobs`."""

    workload: Any
    ranks: None = None
    start: int = 0


def _jobs(scenario: Scenario) -> Sequence[Job | _WholeFabric]:
    return scenario.jobs or ([_WholeFabric(scenario.workload)] if scenario.workload else [])
