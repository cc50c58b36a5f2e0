"""The scenario file: what exists, what works today, and one line for everything that is wrong."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from netsim.engine.protocol import NicConfig, PacketConfig
from netsim.errors import InputError, first_error
from netsim.section import Section, not_yet
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.units import Duration
from netsim.workload.collective import CollectiveConfig
from netsim.workload.trace import TraceConfig

Rank = Annotated[int, Field(ge=0, strict=True)]

TopologyConfig = Annotated[LeafSpineConfig, BeforeValidator(not_yet(("leaf_spine",), ("fat_tree", "graph")))]
WorkloadConfig = Annotated[
    CollectiveConfig | TraceConfig,
    Field(discriminator="kind"),
    BeforeValidator(not_yet(("collective", "trace"), ("flows", "matrix", "chakra"))),
]
TransportKind = Literal["ecmp", "ethereal", "spray_round_robin", "spray_random", "ideal"]
_TRANSPORTS_TODAY = ("ecmp", "ethereal", "spray_round_robin", "spray_random", "ideal")
_TRANSPORTS_PLANNED = ("subflows", "flowlet", "adaptive", "drb", "reps", "drill", "jsq")


def _transport(value: object) -> object:
    if isinstance(value, dict) and "class" in value:
        raise ValueError(f"a class of your own is not built yet; use {' or '.join(_TRANSPORTS_TODAY)}")
    value = not_yet(_TRANSPORTS_TODAY, _TRANSPORTS_PLANNED)(value)
    return {"kind": value} if isinstance(value, str) else value


def _distinct_entries(value: object) -> object:
    if isinstance(value, (list, tuple)) and len({repr(item) for item in value}) < len(value):
        raise ValueError("an entry occurs twice; remove one")
    return value


class TransportConfig(Section, frozen=True):
    """An entry of ``transports``: a kind alone, or a mapping with the kind and a label for reports."""

    kind: TransportKind
    label: Annotated[str, Field(pattern=r"^[\w.+-]{1,40}$")] | None = None

    @property
    def name(self) -> str:
        """Name in results and reports."""
        return self.label or self.kind


class Job(Section, frozen=True):
    """An entry of ``jobs``: a workload on some of the ranks. Its rank i is ranks[i]."""

    workload: WorkloadConfig
    ranks: Annotated[tuple[Rank, ...], Field(min_length=1), BeforeValidator(_distinct_entries)]
    start: Duration = 0


class Algorithms(Section, frozen=True):
    """Section ``algorithms``: how each collective is carried out. send, recv and barrier have no choice."""

    all_reduce: Annotated[Literal["ring"], BeforeValidator(not_yet(("ring",), ("tree", "halving_doubling")))] = "ring"
    all_gather: Annotated[Literal["ring"], BeforeValidator(not_yet(("ring",), ("direct", "halving_doubling")))] = "ring"
    reduce_scatter: Annotated[Literal["ring"], BeforeValidator(not_yet(("ring",), ("direct", "halving_doubling")))] = (
        "ring"
    )
    all_to_all: Annotated[Literal["direct"], BeforeValidator(not_yet(("direct",), ("hierarchical",)))] = "direct"
    broadcast: Annotated[Literal["tree"], BeforeValidator(not_yet(("tree",), ("ring",)))] = "tree"


class CongestionConfig(Section, frozen=True):
    """Section ``congestion``: hosts send at line rate."""

    kind: Literal["none"] = "none"


class RecoveryConfig(Section, frozen=True):
    """Section ``recovery``: nothing is lost, so nothing is recovered.

    Args:
        kind: What happens after a loss.
        timeout: How long a sender would wait.
    """

    kind: Literal["none"] = "none"
    timeout: Duration = 10**9


class FlowControlConfig(Section, frozen=True):
    """Section ``flow_control``: queues are unlimited."""

    kind: Literal["none"] = "none"


class Scenario(Section, frozen=True):
    """A whole scenario file.

    Args:
        format: Name and version of the format.
        topology: The fabric.
        rank_order: Ranks in the order in which they fill the hosts; rank i is the i-th if absent.
        packet: Sizes of packets.
        nic: Order of injection at hosts.
        workload: The only job, on all ranks.
        jobs: Several workloads, in place of `workload`.
        algorithms: How collectives are carried out.
        transports: What is compared.
        congestion: Congestion control.
        recovery: Loss recovery.
        flow_control: Flow control of links.
        engine: Who simulates; auto picks by transport.
        seeds: Each transport runs once a seed.
    """

    format: Literal["flowfabric.scenario/1"]
    topology: TopologyConfig
    rank_order: Annotated[tuple[Rank, ...], BeforeValidator(_distinct_entries), Field(min_length=1)] | None = None
    packet: PacketConfig = PacketConfig()
    nic: NicConfig = NicConfig()
    workload: WorkloadConfig | None = None
    jobs: tuple[Job, ...] | None = Field(default=None, min_length=1)
    algorithms: Algorithms = Algorithms()
    transports: Annotated[
        tuple[Annotated[TransportConfig, BeforeValidator(_transport)], ...],
        Field(min_length=1),
    ]
    congestion: Annotated[
        CongestionConfig, BeforeValidator(not_yet(("none",), ("window", "dctcp", "dcqcn", "swift")))
    ] = CongestionConfig()
    recovery: Annotated[RecoveryConfig, BeforeValidator(not_yet(("none",), ("go_back_n", "selective")))] = (
        RecoveryConfig()
    )
    flow_control: Annotated[FlowControlConfig, BeforeValidator(not_yet(("none",), ("pfc", "trim")))] = (
        FlowControlConfig()
    )
    engine: Annotated[
        Literal["auto", "simpy"], BeforeValidator(not_yet(("auto", "simpy"), ("exact", "event", "fluid")))
    ] = "auto"
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

    def resolved(self) -> dict[str, Any]:
        """The scenario with every default written out, as it can be read back."""
        return self.model_dump(mode="json", exclude_none=True)


def read_scenario(source: Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Scenario:
    """Reads and checks a scenario.

    Args:
        source: A YAML file, or what one would contain.
        overrides: ``dotted.key=value``; the value is YAML, list entries are addressed by number.

    Raises:
        InputError: The first thing that is wrong.
    """
    name = str(source) if isinstance(source, Path) else "scenario"
    content = _load(source) if isinstance(source, Path) else source
    if not isinstance(content, Mapping):
        raise InputError(name, "file", "holds no mapping", "write keys and values, format: flowfabric.scenario/1 first")
    for override in overrides:
        content = _override(content, override)
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        raise first_error(error, name, content) from None


def _load(path: Path) -> object:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, "file", f"cannot be read ({error.strerror})", "give the path of a scenario") from None
    except UnicodeDecodeError:
        raise InputError(path, "file", "is no text", "give the path of a YAML scenario") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}" if mark else "file"
        raise InputError(path, line, f"is no YAML ({getattr(error, 'problem', error)})", "correct the line") from None


def _override(content: Mapping[str, Any], override: str) -> Mapping[str, Any]:
    key, equals, text = override.partition("=")
    remedy = "write key=value, such as topology.spines=4 or seeds=[0,1]"
    if not key or not equals:
        raise InputError("command line", override, "is no override", remedy)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError("command line", key, f"the value is no YAML ({text})", remedy) from None
    return _replaced(content, key.split("."), value, key)


def _replaced(content: Any, keys: Sequence[str], value: object, whole: str) -> Any:
    """A copy of `content` with the entry at `keys` replaced or, in a mapping, added."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(content, list):
        if not key.isdecimal() or int(key) >= len(content):
            raise InputError("command line", whole, f"no entry {key} in a list of {len(content)}", "count from 0")
        return [_replaced(item, rest, value, whole) if n == int(key) else item for n, item in enumerate(content)]
    if content is not None and not isinstance(content, Mapping):
        raise InputError("command line", whole, f"nothing can be below {content!r}", "address an existing section")
    content = content or {}
    return {**content, key: _replaced(content.get(key), rest, value, whole)}
