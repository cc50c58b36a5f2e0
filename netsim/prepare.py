"""Prepares a scenario: fabric, hosts of ranks, tasks and lower bound, which all its runs share."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from netsim.collective.build import Schedules, Use
from netsim.engine.protocol import Engine, Scene
from netsim.foundation.refusal import Refusal
from netsim.refusals import (
    refuse_detours,
    refuse_engine,
    refuse_own_transports,
    refuse_silent,
    refuse_small_memory,
    refuse_unreachable,
    refuse_watched,
)
from netsim.scenario import Job, Scenario, WorkloadConfig
from netsim.seats import Seats, room, seats_of, with_gpu_links
from netsim.topology.build import build_topology
from netsim.topology.failure import Rates, Routes
from netsim.topology.protocol import Topology
from netsim.transport.config import SubflowsConfig, TransportConfig
from netsim.workload.background import BackgroundConfig, BackgroundWorkload
from netsim.workload.chakra.workload import ChakraConfig, ChakraWorkload
from netsim.workload.collective import CollectiveConfig, CollectiveWorkload
from netsim.workload.flows import FlowsConfig, FlowsWorkload
from netsim.workload.goal.workload import GoalConfig, GoalWorkload
from netsim.workload.keys import keys_of
from netsim.workload.matrix import MatrixConfig, MatrixWorkload
from netsim.workload.program import Program
from netsim.workload.protocol import Workload
from netsim.workload.simccl import SimcclConfig, SimcclWorkload
from netsim.workload.spans import Span, TraceOrigin
from netsim.workload.tasks import Tasks
from netsim.workload.trace import TraceConfig, TraceWorkload

if TYPE_CHECKING:
    from netsim.bound import Bound


class LaidOut(NamedTuple):
    """The tasks and collectives of all workloads, remarks for the user, and their traces in the order of the jobs.

    `recorded_ps` is the duration of each optimiser step if the workload was recorded; `algorithms` counts uses.
    """

    tasks: Tasks
    spans: Sequence[Span]
    notices: Sequence[str]
    recorded_ps: Mapping[int, int]
    traces: Sequence[TraceOrigin]
    algorithms: Mapping[Use, int]


class Prepared:
    """A prepared scenario, shared by all its runs; fields of `laid_out` but the tasks are its attributes too."""

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
    def bound(self) -> "Bound":
        """Lower bound of the completion time."""
        from netsim.bound import Bound

        parts = [transport.count for transport in self._transports if isinstance(transport, SubflowsConfig)]
        kinds = {transport.kind for transport in self._transports}
        scene = self.scene._replace(tasks=self.scene.tasks.in_foreground)
        return Bound(scene, parts, "own" in kinds, "ethereal" in kinds)


def prepare(scenario: Scenario, source: str, laid_out: LaidOut | None = None, *, checked: bool = False) -> Prepared:
    """Lays the workloads of a scenario out on its fabric, unless `laid_out` has them; `checked`: it is known to fit."""
    topology = build_topology(scenario.topology)
    try:
        rates = Rates(topology, scenario.topology.failures)
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise Refusal(source, field, *problem.split("; ", 1)) from None
    refuse_own_transports(scenario, source)
    refuse_detours(scenario, source)
    routes = Routes(topology, rates)
    seats = seats_of(topology, _places(scenario, source, room(topology)))
    refuse_watched(scenario, source, seats)
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
        weights=tuple(entry.weight or 0 for entry in scenario.classes or ()),
        link_errors=scenario.topology.link_errors,
    )
    prepared = Prepared(scene, scenario.transports, known, scenario.engine, scenario.fast_forward)
    if not checked:
        refuse_silent(scenario, source, seats, known.tasks)
        refuse_small_memory(source, scene)
        refuse_unreachable(scenario, source, scene)
        refuse_engine(scenario, source, scene, prepared.most_paths)
    return prepared


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
            raise Refusal(source, f"{field}.ranks", problem, f"list {needed} ranks")
        if max(ranks) >= len(hosts):
            problem = f"rank {max(ranks)} has no host ({len(hosts)} ranks fit)"
            raise Refusal(source, field, problem, "take a larger topology, or raise ranks_per_host")
        program.tasks.mark(_number_of_class(scenario, job.workload), isinstance(job.workload, BackgroundConfig))
        workload.extend(program, ranks, job.start, schedules)
        notices += workload.notices
    tasks = with_gpu_links(program.tasks, seats)
    if scenario.draws == "collective":
        tasks = tasks.with_keys(keys_of(program.tasks.columns(), program.collectives))
    return LaidOut(tasks, program.spans, notices, program.recorded_ps, program.traces, schedules.used)


def _number_of_class(scenario: Scenario, workload: WorkloadConfig) -> int:
    """Place of a workload's class among the scenario's."""
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
        case ChakraConfig():
            return ChakraWorkload(config)


MOST_RANKS = 4_000_000
"""As many as links: each has a place of its own."""


def _places(scenario: Scenario, source: str, places: int) -> list[int]:
    """Place of each rank."""
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
