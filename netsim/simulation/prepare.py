"""Prepares a scenario: fabric, hosts of ranks, tasks and lower bound, which all its runs share; or refuses it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from netsim.calibration.document import read_calibration
from netsim.calibration.schedules import Calibrated, MeasuredCollectives, software_of
from netsim.collective.build import Schedules, Use
from netsim.engine.buffers import limits_of
from netsim.engine.protocol import Engine, Outcome, Scene
from netsim.foundation.refusal import Refusal
from netsim.simulation.engines import is_core_built, refusal, seen_by
from netsim.simulation.scenario import Job, Scenario, WorkloadConfig
from netsim.topology.failure import Rates, Routes
from netsim.topology.mapping import RankMap, capacity, rank_map
from netsim.topology.protocol import Topology, gpu_links
from netsim.transport.build import PACKET_TRANSPORTS, build_transport
from netsim.transport.config import SubflowsConfig, TransportConfig
from netsim.transport.protocol import Transport
from netsim.workload.aicb import AicbConfig, AicbWorkload
from netsim.workload.background import BackgroundConfig, BackgroundWorkload
from netsim.workload.chakra.workload import ChakraConfig, ChakraWorkload
from netsim.workload.collective import CollectiveConfig, CollectiveWorkload
from netsim.workload.device_table import Computed
from netsim.workload.flows import FlowsConfig, FlowsWorkload, MatrixConfig, MatrixWorkload
from netsim.workload.goal import GoalConfig, GoalWorkload
from netsim.workload.model.config import ModelConfig
from netsim.workload.model.workload import ModelWorkload
from netsim.workload.program import Program, Span, TraceOrigin, keys_of
from netsim.workload.protocol import Workload
from netsim.workload.simccl import SimcclConfig, SimcclWorkload
from netsim.workload.tasks import Tasks
from netsim.workload.trace import TraceConfig, TraceWorkload

if TYPE_CHECKING:
    from netsim.simulation.bound import Bound


class LaidOut(NamedTuple):
    """The tasks and collectives of all workloads, remarks for the user, and their traces in the order of the jobs.

    `recorded_ps` is the duration of each optimiser step if the workload was recorded; `algorithms` counts uses;
    `measured` has the collectives with times from a calibration, `computed` the compute times from a device table.
    """

    tasks: Tasks
    spans: Sequence[Span]
    notices: Sequence[str]
    recorded_ps: Mapping[int, int]
    traces: Sequence[TraceOrigin]
    algorithms: Mapping[Use, int]
    measured: Sequence[MeasuredCollectives]
    computed: Sequence[Computed]


class Prepared:
    """A prepared scenario, shared by all its runs."""

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
        self.most_paths = scene.most_paths

    @cached_property
    def bound(self) -> "Bound | None":
        """Lower bound of the completion time, None without the compiled core."""
        if not is_core_built():
            return None
        from netsim.simulation.bound import Bound

        parts = [transport.count for transport in self._transports if isinstance(transport, SubflowsConfig)]
        kinds = {transport.kind for transport in self._transports}
        scene = self.scene._replace(tasks=self.scene.tasks.in_foreground)
        return Bound(scene, parts, "own" in kinds, "ethereal" in kinds)


def prepare(scenario: Scenario, source: str, laid_out: LaidOut | None = None, *, checked: bool = False) -> Prepared:
    """Lays the workloads of a scenario out on its fabric, unless `laid_out` has them; `checked`: it is known to fit."""
    topology = scenario.topology.build()
    try:
        rates = Rates(topology, scenario.topology.failures)
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise Refusal(source, field, *problem.split("; ", 1)) from None
    refuse_own_transports(scenario, source)
    refuse_detours(scenario, source)
    routes = Routes(topology, rates)
    mapping = rank_map(topology, _places(scenario, source, capacity(topology)))
    refuse_watched(scenario, source, mapping)
    known = laid_out or _lay_out(scenario, source, topology, mapping)
    scene = Scene(
        topology,
        rates,
        routes,
        mapping.ends,
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
        weights=tuple(entry.weight or 0 for entry in scenario.classes or ()),
        link_errors=scenario.topology.link_errors,
    )
    prepared = Prepared(scene, scenario.transports, known, scenario.engine, scenario.fast_forward)
    if not checked:
        refuse_silent(scenario, source, mapping, known.tasks)
        refuse_small_memory(source, scene)
        refuse_unreachable(scenario, source, scene)
        refuse_engine(scenario, source, scene, prepared.most_paths)
    return prepared


def _lay_out(scenario: Scenario, source: str, topology: Topology, mapping: RankMap) -> LaidOut:
    """Reads the workloads of a scenario."""
    hosts = mapping.hosts
    program = Program()
    notices: list[str] = []
    packet = scenario.packet
    path = getattr(scenario.topology, "calibration", None)
    calibration = path and read_calibration(Path(path))
    software = software_of(calibration, scenario.algorithms) if calibration else {}
    simulated = Schedules(scenario.algorithms, mapping, source, topology, packet.payload, packet.header, software)
    schedules = Calibrated(simulated, calibration, mapping) if calibration else simulated
    for index, job in enumerate(_jobs(scenario)):
        workload = _workload(job.workload, topology, hosts)
        field = "workload" if scenario.jobs is None else f"jobs.{index}"
        needed = workload.size(len(job.ranks or hosts))
        ranks = job.ranks or range(needed)
        if len(ranks) != needed:
            problem = f"the workload has {needed} ranks, the job lists {len(ranks)}"
            raise Refusal(source, f"{field}.ranks", problem, f"list {needed} ranks")
        if max(ranks) >= len(hosts):
            problem = f"rank {max(ranks)} has no host ({len(hosts)} ranks fit)"
            raise Refusal(source, field, problem, "take a larger topology, or raise ranks_per_host")
        program.tasks.mark(_number_of_class(scenario, job.workload), isinstance(job.workload, BackgroundConfig))
        workload.extend(program, ranks, job.start, schedules)
        notices += workload.notices
    tasks = _with_gpu_links(program.tasks, mapping)
    if scenario.draws == "collective":
        tasks = tasks.with_keys(keys_of(program.tasks.columns(), program.collectives))
    measured = schedules.used if isinstance(schedules, Calibrated) else ()
    known = program.recorded_ps, program.traces, simulated.used, measured, sorted(set(program.computed))
    return LaidOut(tasks, program.spans, notices, *known)


def _number_of_class(scenario: Scenario, workload: WorkloadConfig) -> int:
    """Index of a workload's class among the scenario's classes."""
    return next((n for n, one in enumerate(scenario.classes or ()) if one.name == workload.traffic_class), 0)


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
        case AicbConfig():
            return AicbWorkload(config)
        case ChakraConfig():
            return ChakraWorkload(config)
        case ModelConfig():
            return ModelWorkload(config)


MOST_RANKS = 4_000_000
"""Most ranks, as many as links, so that each rank has a place."""


def _places(scenario: Scenario, source: str, places: int) -> list[int]:
    """Place of each rank, by `rank_order`; refuses a wrong order."""
    if places > MOST_RANKS:
        problem = f"{places:,} ranks fit on the fabric, and {MOST_RANKS:,} are possible"
        raise Refusal(source, "topology.ranks_per_host", problem, "lower it, or take fewer hosts")
    order = scenario.rank_order or tuple(range(places))
    if len(order) > places:
        problem = f"lists {len(order)} ranks, {places} fit"
        raise Refusal(source, "rank_order", problem, "shorten it, or take a larger topology")
    if sorted(order) != list(range(len(order))):
        absent = min(set(range(len(order))) - set(order))
        raise Refusal(source, "rank_order", f"lacks rank {absent}", f"list each of 0..{len(order) - 1} once")
    place = {rank: position for position, rank in enumerate(order)}
    return [place[rank] for rank in range(len(order))]


class _WholeFabric(NamedTuple):
    """The one job of a scenario without `jobs`."""

    workload: Any
    ranks: None = None
    start: int = 0


def _jobs(scenario: Scenario) -> Sequence[Job | _WholeFabric]:
    return scenario.jobs or ([_WholeFabric(scenario.workload)] if scenario.workload else [])


def _with_gpu_links(tasks: Tasks, mapping: RankMap) -> Tasks:
    """Tasks whose messages within a machine take the links of GPUs; a rank's GPU has the number rank + ranks."""
    if not mapping.gpus:
        return tasks
    columns, machines = tasks.columns(), np.asarray(mapping.machines, dtype=np.int64)
    near = (machines[columns.src] == machines[columns.dst]) & (columns.src != columns.dst) & (columns.bytes > 0)
    shift = len(machines) * near
    return tasks.with_columns(columns._replace(src=columns.src + shift, dst=columns.dst + shift))


def name_ranks(scene: Scene, outcome: Outcome) -> None:
    """Replaces the GPU numbers (rank + ranks) of flows inside machines by rank numbers, in place."""
    if gpu_links(scene.topology) is not None:
        for side in ("src", "dst"):
            outcome.flows[side] %= len(scene.hosts) // 2


def refuse_watched(scenario: Scenario, source: str, mapping: RankMap) -> None:
    """Refuses to watch flows of ranks that do not exist, or that talk without the network."""
    ranks = len(mapping.hosts)
    for number, pair in enumerate(() if scenario.watch is None else scenario.watch.flows):
        if max(pair) >= ranks:
            problem = f"rank {max(pair)} has no host ({ranks} ranks fit)"
            raise Refusal(source, f"watch.flows.{number}", problem, f"name ranks from 0 to {ranks - 1}")
        if len({mapping.machines[rank] for rank in pair}) == 1:
            problem = f"ranks {pair[0]} and {pair[1]} sit on one host, inside which nothing is watched"
            raise Refusal(source, f"watch.flows.{number}", problem, "name ranks of two hosts")


def refuse_silent(scenario: Scenario, source: str, mapping: RankMap, tasks: Tasks) -> None:
    """Refuses to watch flows between ranks that send each other nothing over the network."""
    pairs = () if scenario.watch is None else scenario.watch.flows
    if not pairs:
        return
    columns, machines = tasks.columns(), np.asarray(mapping.machines, dtype=np.int64)
    ranks = len(machines)
    sends = (columns.bytes > 0) & (columns.src < ranks) & (columns.dst < ranks)
    talking = np.unique(columns.src[sends] * ranks + columns.dst[sends])
    talking = talking[machines[talking // ranks] != machines[talking % ranks]]
    for number, (src, dst) in enumerate(pairs):
        if not (talking == src * ranks + dst).any():
            distance = np.abs(talking // ranks - src) + np.abs(talking % ranks - dst)
            nearest = [[*divmod(pair, ranks)] for pair in talking[np.argsort(distance, kind="stable")[:3]].tolist()]
            remedy = f"name pairs that do, such as {', '.join(map(str, nearest))}" if nearest else "remove watch.flows"
            raise Refusal(source, f"watch.flows.{number}", f"rank {src} sends nothing to rank {dst}", remedy)


def refuse_small_memory(source: str, scene: Scene) -> None:
    """Refuses shared memory that is not larger than the headroom of the switch's links (PFC)."""
    if scene.buffer is None or scene.flow_control.kind != "pfc":
        return
    limits = limits_of(scene)
    for link, node in zip(scene.topology.links, limits.source, strict=True):
        if not link.src.startswith("host") and limits.pool[node] <= 0:
            needed = scene.buffer.size - limits.pool[node]
            problem = f"{link.src} needs {needed} B of headroom for its links, and memory beyond"
            raise Refusal(source, "topology.buffer.size", problem, "raise it, or shorten the links' delay")


def refuse_unreachable(scenario: Scenario, source: str, scene: Scene) -> None:
    """Refuses a message without a path that works at the beginning, for any of the transports."""
    for seen in {id(one): one for one in (seen_by(scene, each) for each in scenario.transports)}.values():
        _refuse_unreachable(seen, source)


def _refuse_unreachable(scene: Scene, source: str) -> None:
    topology, leaves = scene.topology, len(scene.topology.tiers[0])
    down = scene.rates.known_down()[0][1]
    pairs = np.flatnonzero(scene.talking)
    cut = np.array([not scene.routes.usable_routes(*divmod(pair, leaves), 0) for pair in pairs.tolist()], dtype=bool)
    if not down and not cut.any():
        return
    columns, hosts = scene.tasks.columns(), np.asarray(scene.hosts, dtype=np.int64)
    moves = columns.bytes > 0
    asked = np.unique(hosts[columns.src[moves]] * topology.hosts + hosts[columns.dst[moves]])
    for src, dst in (divmod(pair, topology.hosts) for pair in asked.tolist()):
        if not scene.routes.usable(src, dst):
            problem = f"no path leads from host{src} to host{dst}"
            raise Refusal(source, "topology", problem, "add links, or take failures at 0us away")


def refuse_own_transports(scenario: Scenario, source: str) -> None:
    """Refuses a transport class of the user that cannot be found, or does not accept its options."""
    for index, transport in enumerate(scenario.transports):
        if transport.kind == "own":
            try:
                build_transport(transport, seed=0, most_paths=1)
            except ValueError as error:
                problem, _, remedy = str(error).partition("; ")
                raise Refusal(source, f"transports.{index}", problem, remedy) from None


def refuse_detours(scenario: Scenario, source: str) -> None:
    """Refuses transports that take detours on a fabric that has none."""
    for index, transport in enumerate(scenario.transports):
        detours = PACKET_TRANSPORTS.get(transport.kind, Transport).takes_detours
        if detours and scenario.topology.kind not in ("dragonfly", "torus"):
            problem = f"{transport.name} takes detours, and a {scenario.topology.kind} has none"
            raise Refusal(source, f"transports.{index}", problem, "take topology.kind dragonfly or torus")


def refuse_engine(scenario: Scenario, source: str, scene: Scene, most_paths: int) -> None:
    """Refuses an engine that cannot simulate one of the transports."""
    for transport in scenario.transports:
        why = refusal(scenario.engine, scene, transport, most_paths)
        if why is not None:
            problem = f"{scenario.engine} cannot simulate {transport.name}: {why}"
            raise Refusal(source, "engine", problem, "write engine: auto, or take the transport out")
