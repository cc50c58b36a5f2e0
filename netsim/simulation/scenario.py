"""The scenario file: its sections, its checks, and one-line errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from netsim.collective.config import Algorithms, AnyAlgorithms
from netsim.congestion import CongestionConfig
from netsim.congestion.flow_control import AcknowledgementConfig, FlowControlConfig, NoFlowControlConfig
from netsim.congestion.recovery import NoRecoveryConfig, RecoveryConfig
from netsim.congestion.window import NoneConfig
from netsim.engine.limits import LimitsConfig
from netsim.engine.protocol import Engine, NicConfig, PacketConfig
from netsim.engine.watch import WatchConfig
from netsim.foundation.complaint import validated
from netsim.foundation.documents import check_mapping, parse_yaml, read_shipped
from netsim.foundation.refusal import Refusal
from netsim.foundation.schema import described
from netsim.foundation.settings import Section
from netsim.foundation.units import Duration
from netsim.topology.kinds import TopologyConfig
from netsim.transport.config import TransportConfig
from netsim.workload.aicb import AicbConfig
from netsim.workload.background import BackgroundConfig
from netsim.workload.chakra.workload import ChakraConfig
from netsim.workload.collective import CollectiveConfig
from netsim.workload.flows import FlowsConfig, MatrixConfig
from netsim.workload.goal import GoalConfig
from netsim.workload.model.config import ModelConfig
from netsim.workload.simccl import SimcclConfig
from netsim.workload.trace import TraceConfig

Name = Annotated[str, Field(pattern=r"^[\w.+-]{1,40}$")]


class ClassConfig(Section):
    """An entry of ``classes``; a name alone stands for a class without a weight.

    Args:
        name: Name of the class.
        weight: Weight of the class: its share of a link's bytes relative to the other weighted classes that have
            packets. null: strict priority, ahead of all classes with weights.
    """

    name: Name
    weight: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None


def _with_a_name(value: object) -> object:
    """Replaces the name of a class by a section with that name."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, (Mapping, ClassConfig)):
        raise ValueError("it is no class; write its name, or a name and a weight: {name: bulk, weight: 3}")
    return value


def _in_order(classes: Sequence[ClassConfig]) -> Sequence[ClassConfig]:
    """Refuses a name that occurs twice, and a class without a weight behind one with a weight."""
    for number, entry in enumerate(classes):
        before = classes[:number]
        if any(entry.name == other.name for other in before):
            raise ValueError(f"the class {entry.name} occurs twice; remove one")
        if entry.weight is None and any(other.weight for other in before):
            problem = f"{entry.name} has no weight and stands behind classes that take turns"
            raise ValueError(f"{problem}; give it a weight, or move it to the front, where it goes first")
    return classes


Classes = Annotated[
    tuple[Annotated[ClassConfig, BeforeValidator(_with_a_name, json_schema_input_type=Name | ClassConfig)], ...],
    Field(min_length=1, max_length=8),
    AfterValidator(_in_order),
]


Rank = Annotated[int, Field(ge=0, strict=True)]
WorkloadConfig = Annotated[
    CollectiveConfig
    | TraceConfig
    | FlowsConfig
    | MatrixConfig
    | ChakraConfig
    | GoalConfig
    | SimcclConfig
    | AicbConfig
    | BackgroundConfig
    | ModelConfig,
    Field(discriminator="kind"),
]


def _distinct_entries(value: object) -> object:
    if isinstance(value, (list, tuple)) and len({repr(item) for item in value}) < len(value):
        raise ValueError("an entry occurs twice; remove one")
    return value


class Job(Section):
    """An entry of ``jobs``: a workload on some of the ranks. Rank i of the job is ranks[i].

    Args:
        workload: Workload of the job: what it sends.
        ranks: Ranks of the fabric on which the job runs. Rank i of the job is entry i of the list.
        start: Simulated time at which the job starts.
    """

    workload: WorkloadConfig
    ranks: Annotated[tuple[Rank, ...], Field(min_length=1), BeforeValidator(_distinct_entries)]
    start: Duration = 0


class Scenario(Section):
    """A whole scenario file.

    Args:
        format: Name and version of the format.
        topology: The fabric.
        rank_order: Ranks in the order in which they fill the hosts; null: by number.
        packet: Sizes of packets.
        nic: Order in which the flows of a host send.
        workload: Workload of the only job, which runs on all ranks.
        jobs: Several jobs, each with its workload, in place of `workload`.
        classes: Traffic classes, by name. Each has a queue of its own in front of every link. Classes without a weight
            have strict priority, in the order of the list. Classes with weights come after them and share the link by
            deficit round robin.
        algorithms: Algorithm of each collective; auto or nccl: chosen by size, ranks and fabric.
        transports: Transports to compare.
        congestion: Congestion control.
        recovery: Loss recovery.
        flow_control: What switches do when a queue is full.
        acknowledgement: Size and lane of acknowledgements.
        limits: Limits at which a run ends although tasks are left.
        watch: What is recorded over time, for more pictures and tables.
        engine: Engine that simulates the runs; auto chooses an engine for each transport.
        fast_forward: Whether, with engine auto, parts of the workload that repeat, such as the collectives of equal
            layers, are simulated only once. Results are the same to the last bit; where nothing can be skipped, all is
            simulated.
        draws: What random draws, such as of sprayed paths, depend on besides the seed. task: on the number of each
            message, so that a collective that occurs twice draws different values; collective: on the place of each
            message in its collective, so that equal collectives between the same ranks draw the same values, and
            `fast_forward` can skip repeats. Means over the collectives of a run then vary more: take more seeds.
        seeds: Seeds of the random draws: each transport runs once with each seed.
    """

    format: Literal["flowfabric.scenario/1"]
    topology: TopologyConfig
    rank_order: Annotated[tuple[Rank, ...], BeforeValidator(_distinct_entries), Field(min_length=1)] | None = None
    packet: PacketConfig = PacketConfig()
    nic: NicConfig = NicConfig()
    workload: WorkloadConfig | None = None
    jobs: tuple[Job, ...] | None = Field(default=None, min_length=1)
    classes: Classes | None = None
    algorithms: AnyAlgorithms = Algorithms()
    transports: Annotated[tuple[TransportConfig, ...], Field(min_length=1)]
    congestion: CongestionConfig = NoneConfig()
    recovery: RecoveryConfig = NoRecoveryConfig()
    flow_control: FlowControlConfig = NoFlowControlConfig()
    acknowledgement: AcknowledgementConfig = AcknowledgementConfig()
    limits: LimitsConfig = LimitsConfig()
    watch: WatchConfig | None = None
    engine: Engine = "auto"
    fast_forward: bool = True
    draws: Literal["task", "collective"] = "task"
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**63, strict=True)], ...],
        Field(min_length=1),
        BeforeValidator(_distinct_entries),
    ]

    @field_validator("transports")
    @classmethod
    def _distinct(cls, transports: tuple[TransportConfig, ...]) -> tuple[TransportConfig, ...]:
        names = [transport.name for transport in transports]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"'{twice}' occurs twice; remove one or give it a label")
        return transports

    @model_validator(mode="after")
    def _one_source(self) -> "Scenario":
        if (self.workload is None) == (self.jobs is None):
            raise ValueError("there must be either workload or jobs; write exactly one of the two")
        return self

    @model_validator(mode="after")
    def _watched_flows_are_answered(self) -> "Scenario":
        if self.watch and self.watch.flows and self.congestion.kind == "none" and self.recovery.kind == "none":
            problem = "watch.flows are recorded when acknowledgements arrive, which nothing asks for"
            raise ValueError(f"{problem}; set congestion.kind, such as window")
        return self

    @model_validator(mode="after")
    def _nothing_is_missing(self) -> "Scenario":
        control, queue = self.flow_control, self.topology.queue
        if control.kind == "pfc" and self.topology.kind in ("dragonfly", "torus"):
            problem = f"flow_control pfc can pause links of a {self.topology.kind} in a circle, for good"
            raise ValueError(f"{problem}; write none or trim, or take a fat_tree or leaf_spine")
        lossless = control.kind == "pfc" and control.headroom == "auto"
        largest = self.packet.payload + self.packet.header
        if self.acknowledgement.lane == "data":
            largest = max(largest, self.acknowledgement.size)
        if queue is not None and control.kind != "pfc" and queue < largest:
            raise ValueError(f"topology.queue has no room for a packet of {largest} B; raise it")
        if self.acknowledgement.lane == "priority" and control.kind == "pfc":
            raise ValueError("acknowledgement.lane priority is not for flow_control pfc; write control or data")
        if self.acknowledgement.lane == "priority" and (self.topology.buffer or self.classes):
            other = "topology.buffer" if self.topology.buffer else "classes"
            raise ValueError(f"acknowledgement.lane priority is not for {other}; write control or data")
        if self.recovery.kind == "none" and control.kind == "pfc" and not lossless:
            raise ValueError("flow_control.headroom may be too small to lose nothing; write auto, or set recovery.kind")
        limited = queue is not None or self.topology.buffer is not None
        if self.flow_control.kind == "trim" and not (limited and self.recovery.kind == "selective"):
            raise ValueError(
                "flow_control trim needs a queue and repeats; set topology.queue and recovery.kind: selective"
            )
        if self.congestion.kind in ("receiver_credit", "ndp") and self.recovery.kind != "selective":
            problem = f"congestion {self.congestion.kind} counts packets one by one"
            raise ValueError(f"{problem}; set recovery.kind: selective")
        if self.congestion.kind == "ndp" and self.flow_control.kind != "trim":
            raise ValueError("congestion ndp lives on the headers of trimmed packets; set flow_control.kind: trim")
        if self.recovery.kind == "none" and self.topology.queue is not None and not lossless:
            raise ValueError("topology.queue drops packets that are not sent again; set recovery.kind to selective")
        late = [number for number, failure in enumerate(self.topology.failures) if failure.at and not failure.rate]
        if self.recovery.kind == "none" and late:
            problem = f"topology.failures.{late[0]} loses packets that are not sent again"
            raise ValueError(f"{problem}; set recovery.kind to go_back_n or selective")
        return self

    @model_validator(mode="after")
    def _memory_fits(self) -> "Scenario":
        control, buffer = self.flow_control, self.topology.buffer
        dynamic = control.kind == "pfc" and control.dynamic
        if buffer is None:
            if dynamic:
                raise ValueError("flow_control.pause_above dynamic needs shared memory; set topology.buffer")
            return self
        if self.topology.queue is not None:
            raise ValueError("topology.queue and topology.buffer exclude each other; remove one of them")
        if control.kind == "pfc" and not dynamic:
            raise ValueError("flow_control.pause_above does not follow topology.buffer; write pause_above: dynamic")
        largest = max(self.packet.payload + self.packet.header, self.acknowledgement.size)
        if buffer.size < largest:
            raise ValueError(f"topology.buffer has no room for a packet of {largest} B; raise its size")
        if self.recovery.kind == "none" and control.kind != "pfc":
            raise ValueError("topology.buffer drops packets that are not sent again; set recovery.kind to selective")
        return self

    @model_validator(mode="after")
    def _errors_are_repaired(self) -> "Scenario":
        errors = self.topology.link_errors
        if errors is not None and errors.retry == "none" and self.recovery.kind == "none":
            problem = "topology.link_errors loses packets that are not sent again"
            raise ValueError(f"{problem}; write retry: link, or set recovery.kind to selective")
        return self

    @model_validator(mode="after")
    def _something_ends(self) -> "Scenario":
        workloads = [self.workload] if self.workload else [job.workload for job in self.jobs or ()]
        if workloads and all(isinstance(workload, BackgroundConfig) for workload in workloads):
            raise ValueError("background traffic alone never ends; add another job to jobs")
        return self

    @model_validator(mode="after")
    def _classes_are_known(self) -> "Scenario":
        names = [entry.name for entry in self.classes or ()]
        places = [("workload", self.workload)] if self.workload else []
        places += [(f"jobs.{number}.workload", job.workload) for number, job in enumerate(self.jobs or ())]
        for place, workload in places:
            name = workload.traffic_class
            if name is None and self.classes:
                raise ValueError(f"{place}.class is missing; write one of {', '.join(names)}")
            if name is not None and name not in names:
                known = f"write one of {', '.join(names)}" if names else "list it in classes"
                raise ValueError(f"{place}.class {name} is not among classes; {known}")
        return self

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The content of configs/schemas/scenario.schema.json, with all rules that JSON Schema can express."""
        one = {"oneOf": [{"required": ["workload"]}, {"required": ["jobs"]}]}
        return described(cls) | one

    def resolved(self) -> dict[str, Any]:
        """The scenario with every default written out, as it can be read back."""
        return self.model_dump(mode="json", exclude_none=True, by_alias=True)


def read_scenario(source: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Scenario:
    """Reads and checks a scenario, a file or a mapping; values of overrides are YAML, list entries go by number."""
    name = str(source) if isinstance(source, Path) else "scenario"
    content = read_mapping(source) if isinstance(source, Path) else source
    if "format" not in content and {"run", "model"} <= content.keys():
        raise Refusal(name, "file", "is a run configuration, not a scenario", "give it to python -m trainer")
    for override in overrides:
        content = _override(content, override)
    return validated(content, name, Scenario)


def read_mapping(path: Path) -> Mapping[str, Any]:
    """The keys and values of a scenario's file, unchecked."""
    remedy = "write keys and values, format: flowfabric.scenario/1 first"
    return check_mapping(read_shipped(path, "a scenario", "scenarios"), path, remedy)


def _override(content: Mapping[str, Any], override: str) -> Mapping[str, Any]:
    key, equals, text = override.partition("=")
    remedy = "write key=value, such as topology.spines=4 or seeds=[0,1]"
    if not key or not equals:
        raise Refusal("command line", override, "is not key=value", remedy)
    try:
        value = parse_yaml(text)
    except Refusal as refusal:
        field = ".".join(part for part in (key, refusal.field) if part)
        raise Refusal("command line", field, refusal.problem, refusal.remedy) from None
    except ValueError:
        raise Refusal("command line", key, f"the value is not valid YAML ({text})", remedy) from None
    return _replaced(content, key.split("."), value, key)


def _replaced(content: Any, keys: Sequence[str], value: object, whole: str) -> Any:
    """A copy of `content` with the entry at `keys` replaced or, in a mapping, added."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(content, list):
        if not key.isdecimal() or int(key) >= len(content):
            raise Refusal("command line", whole, f"no entry {key} in a list of {len(content)}", "count from 0")
        return [_replaced(item, rest, value, whole) if n == int(key) else item for n, item in enumerate(content)]
    if content is not None and not isinstance(content, Mapping):
        raise Refusal("command line", whole, f"nothing can be below {content!r}", "address an existing section")
    content = content or {}
    return {**content, key: _replaced(content.get(key), rest, value, whole)}
