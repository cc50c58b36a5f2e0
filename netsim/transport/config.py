"""The entries of ``transports`` in a scenario, and the class that each of them makes."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from netsim.foundation.settings import Section, by_kind
from netsim.transport.detouring import UgalConfig, Valiant
from netsim.transport.ecmp import EcmpConfig, SubflowsConfig
from netsim.transport.ethereal import EtherealConfig
from netsim.transport.flowlet import FlowletConfig
from netsim.transport.protocol import Label, Transport, TransportSettings
from netsim.transport.reps import RepsConfig
from netsim.transport.spray import DestinationRotation, SprayConfig, SprayRoundRobin
from netsim.transport.switched import AdaptiveFlow, DrillConfig, JsqConfig


class PlainConfig(TransportSettings):
    """Transports without options."""

    kind: Literal["spray_round_robin", "drb", "adaptive_flow", "ideal", "valiant"]


class OwnConfig(Section):
    """A transport class of the user: ``{class: "module:Class", options: {...}}``.

    Args:
        path: Module and class, importable from the working directory; a `netsim.transport.Transport`.
        options: Further arguments of the class.
        label: Name of the transport in results and reports; null: the name of the class.
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
KINDS = by_kind(_AnyKind)
"""The sections, by kind."""
_SUBFLOWS = re.compile(r"mprdma-(\d+)")


def _words() -> list[str]:
    """Short names: kinds without required options, and names that stand for a kind with options."""
    return [*sorted(KINDS.keys() - {"own"}), _SUBFLOWS.pattern]


def _entry(value: object) -> object:
    """Replaces a short name by a mapping with its kind and options."""
    if isinstance(value, dict) and "class" in value:
        return {"kind": "own", **value}
    if not isinstance(value, str):
        return value
    if match := _SUBFLOWS.fullmatch(value):
        return {"kind": "subflows", "count": int(match[1]), "label": value}
    return {"kind": value}


_Word = Annotated[str, Field(pattern=rf"^({'|'.join(_words())})$")]
TransportConfig = Annotated[
    _AnyKind, Field(discriminator="kind"), BeforeValidator(_entry, json_schema_input_type=_Word | _AnyKind)
]


PACKET_TRANSPORTS: dict[str, type[Transport]] = {
    "adaptive_flow": AdaptiveFlow,
    "drb": DestinationRotation,
    "spray_round_robin": SprayRoundRobin,
    "valiant": Valiant,
} | {kind: section.transport for kind, section in KINDS.items() if getattr(section, "transport", None) is not None}
"""Kinds that move packets, and their classes."""
