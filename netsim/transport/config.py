"""Sections of transports in a scenario: one class for each kind, its fields are the options of the transport."""

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from netsim.documents import Section
from netsim.transport.ecmp import Hash
from netsim.transport.ethereal import Order, Pieces
from netsim.transport.spray import Order as SprayOrder
from netsim.transport.switched import Ties
from netsim.units import Duration, Size

Label = Annotated[str, Field(pattern=r"^[\w.+-]{1,40}$")]


class _Transport(Section, frozen=True):
    """An entry of ``transports``.

    Args:
        kind: Name of the transport.
        label: Its name in results and reports.
    """

    kind: str
    label: Label | None = None

    @property
    def name(self) -> str:
        """Name in results and reports."""
        return self.label or self.kind

    def options(self) -> dict[str, Any]:
        """Arguments of the transport besides seed and number of paths."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "label")}


class PlainConfig(_Transport, frozen=True):
    """Transports without options."""

    kind: Literal["spray_round_robin", "drb", "adaptive_flow", "ideal", "valiant"]


Entropies = Annotated[int, Field(ge=1, le=2**16)] | None


class SprayConfig(_Transport, frozen=True):
    """See `netsim.transport.spray`.

    Args:
        entropies: Values of the header field that a packet draws from; each leads a flow to a path that switches'
            hashes decide, so that some paths have many and others none. null: one for each path.
        order: Of these values. drawn, or null: a packet draws any; rounds: a flow takes all of them in turn, again and
            again, each round from a drawn one on.
    """

    kind: Literal["spray_random"]
    entropies: Entropies = None
    order: SprayOrder | None = None

    @model_validator(mode="after")
    def _of_values(self) -> "SprayConfig":
        if self.order == "rounds" and self.entropies is None:
            raise ValueError("order: rounds is for header values; write entropies, or leave order out")
        return self


class EcmpConfig(_Transport, frozen=True):
    """See `netsim.transport.ecmp`.

    Args:
        hash: random: an ideal hash; crc32: of seed, source and destination, as switches compute it.
    """

    kind: Literal["ecmp"]
    hash: Hash = "random"


class SubflowsConfig(_Transport, frozen=True):
    """See `netsim.transport.subflows`; ``mprdma-4`` for short.

    Args:
        count: Parts of a message, each on a path of its own.
    """

    kind: Literal["subflows"]
    count: Annotated[int, Field(ge=1, le=256)] = 4


class FlowletConfig(_Transport, frozen=True):
    """See `netsim.transport.flowlet`.

    Args:
        gap: Shortest pause that begins a flowlet; about the largest difference of path delays.
    """

    kind: Literal["flowlet"]
    gap: Duration = 10 * 10**6


class RepsConfig(_Transport, frozen=True):
    """See `netsim.transport.reps`.

    Args:
        cache: Entries of a flow's ring of paths.
        freeze: How long a flow does not explore after a timeout.
        every: Of so many acknowledgements without a mark one adds its path, as where receivers acknowledge several
            packets at once.
        explore: After a freeze the ring is emptied and so many packets explore, and timeouts do not freeze again before
            that is over; 0: the ring stays as it is.
        entropies: Values of the header field that a flow draws from; each leads to a path that switches' hashes decide,
            so that some paths have many and others none. null: one for each path.
        forgive_last_link: A packet trimmed in front of its receiver's own link says nothing against its path.
        mark_above: Queue above which packets are marked, unless the congestion control sets a threshold.
    """

    kind: Literal["reps"]
    cache: Annotated[int, Field(ge=1, le=64)] = 8
    freeze: Duration = 10**9
    every: Annotated[int, Field(ge=1, le=2**20)] = 1
    explore: Annotated[int, Field(ge=0, le=2**20)] = 0
    entropies: Entropies = None
    forgive_last_link: bool = False
    mark_above: Annotated[Size, Field(gt=0)] = 100_000


class DrillConfig(_Transport, frozen=True):
    """See `netsim.transport.switched`.

    Args:
        d: Queues drawn for each packet, with repetition.
        m: Queues remembered by each switch.
    """

    kind: Literal["drill"]
    d: Annotated[int, Field(ge=1, le=64)] = 2
    m: Annotated[int, Field(ge=0, le=64)] = 1


class JsqConfig(_Transport, frozen=True):
    """See `netsim.transport.switched`.

    Args:
        step: Queues are told apart in steps of so much work; 0: exactly.
        ties: Among queues that are equally short. turn: the next after the switch's last choice, so that switches which
            see the same queues may choose alike; drawn: any of them.
    """

    kind: Literal["jsq"]
    step: Duration = 0
    ties: Ties = "turn"


class UgalConfig(_Transport, frozen=True):
    """See `netsim.transport.detouring`.

    Args:
        bias: Advantage of the minimal path, in unfinished work times links.
    """

    kind: Literal["ugal"]
    bias: Duration = 0


class EtherealConfig(_Transport, frozen=True):
    """See `netsim.transport.ethereal`.

    Args:
        pieces: How flows are cut.
        randomise: Shuffle the flows of a group and the order of its paths, as the authors do; false: both go by number,
            and all hosts begin with the same path.
        order: Order of flows released together in their host's ring. nic: by the scenario's nic; published: as the
            authors' hosts open them, in shuffled order; staggered: by distance, so that hosts that start together send
            to distinct hosts.
        start_delay: Each flow joins its host's ring after a delay drawn up to this; 50 ns in the paper.
        avoid: How long a path that has failed a flow is avoided.
    """

    kind: Literal["ethereal"]
    pieces: Pieces = "equal"
    randomise: bool = True
    order: Order = "nic"
    start_delay: Duration = 0
    avoid: Duration = 100 * 10**9


class OwnConfig(Section, frozen=True):
    """A transport class of the user: ``{class: "module:Class", options: {...}}``.

    Args:
        path: Module and class, importable from the working directory; a `netsim.transport.Transport`.
        options: Further arguments of the class.
        label: Its name in results and reports.
    """

    path: Annotated[str, Field(pattern=r"^[\w.]+:\w+$", alias="class")]
    options_: dict[str, Any] = Field(default={}, alias="options")
    label: Label | None = None
    kind: Literal["own"] = "own"

    @property
    def name(self) -> str:
        """Name in results and reports."""
        return self.label or self.path.rpartition(":")[2]

    def __hash__(self) -> int:
        """Hash without the options, which may hold lists and mappings from YAML."""
        return hash((self.path, self.label))

    def options(self) -> dict[str, Any]:
        """Arguments of the transport besides seed and number of paths."""
        return self.options_


KINDS = (
    PlainConfig,
    SprayConfig,
    EcmpConfig,
    SubflowsConfig,
    FlowletConfig,
    RepsConfig,
    DrillConfig,
    JsqConfig,
    UgalConfig,
    EtherealConfig,
    OwnConfig,
)
_SUBFLOWS = re.compile(r"mprdma-(\d+)")


def _words() -> list[str]:
    """Short names: kinds without required options, and names that stand for a kind with options."""
    kinds = [kind for section in KINDS for kind in get_args(section.model_fields["kind"].annotation) if kind != "own"]
    return [*sorted(kinds), _SUBFLOWS.pattern]


def _entry(value: object) -> object:
    """Replaces a short name by its mapping."""
    if isinstance(value, dict) and "class" in value:
        return {"kind": "own", **value}
    if not isinstance(value, str):
        return value
    if match := _SUBFLOWS.fullmatch(value):
        return {"kind": "subflows", "count": int(match[1]), "label": value}
    return {"kind": value}


_AnyKind = (
    PlainConfig
    | SprayConfig
    | EcmpConfig
    | SubflowsConfig
    | FlowletConfig
    | RepsConfig
    | DrillConfig
    | JsqConfig
    | UgalConfig
    | EtherealConfig
    | OwnConfig
)
_Word = Annotated[str, Field(pattern=rf"^({'|'.join(_words())})$")]
TransportConfig = Annotated[
    _AnyKind, Field(discriminator="kind"), BeforeValidator(_entry, json_schema_input_type=_Word | _AnyKind)
]
