"""From a section ``topology``, or the name or file of a preset, to a fabric."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from netsim.documents import Section, load_yaml
from netsim.foundation.refusal import Refusal
from netsim.topology.dragonfly import Dragonfly, DragonflyConfig
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.graph import Graph, GraphConfig
from netsim.topology.htsim import HtsimConfig, replaced
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.protocol import Topology
from netsim.topology.torus import Torus, TorusConfig


class PresetConfig(Section, frozen=True, extra="allow"):
    """Section ``topology`` of kind ``preset``. The file replaces it; further keys of the section override the file.

    Args:
        name: A file in configs/topologies without its ending, such as dgx_h100_32, or the path of your own: a section
            topology, YAML.
    """

    kind: Literal["preset"]
    name: str


def preset(value: object) -> object:
    """Replaces a section ``{kind: preset, name: NAME}`` by that of a file; further keys override it."""
    if not isinstance(value, Mapping) or value.get("kind") != "preset":
        return value
    name = value.get("name")
    if not isinstance(name, str):
        raise ValueError("a topology of kind preset needs a name; write name: dgx_h100_32, or the path of a file")
    content = load_yaml(Path(name), "a topology", "topologies")
    if not isinstance(content, Mapping) or content.get("kind") in (None, "preset"):
        remedy = "write the section topology of a scenario, kind first"
        raise Refusal(name, "kind", "is missing: it holds no topology of its own", remedy)
    return {**content, **{key: given for key, given in value.items() if key not in ("kind", "name")}}


_Kinds = LeafSpineConfig | FatTreeConfig | GraphConfig | DragonflyConfig | TorusConfig
TopologyConfig = Annotated[
    _Kinds,
    Field(discriminator="kind"),
    BeforeValidator(replaced, json_schema_input_type=_Kinds | HtsimConfig | PresetConfig),
    BeforeValidator(preset, json_schema_input_type=_Kinds | HtsimConfig | PresetConfig),
]


def build_topology(config: _Kinds) -> Topology:
    """The fabric of a section ``topology``."""
    match config:
        case FatTreeConfig():
            return FatTree(config)
        case DragonflyConfig():
            return Dragonfly(config)
        case TorusConfig():
            return Torus(config)
        case GraphConfig():
            return Graph(config)
        case _:
            return LeafSpine(config)
