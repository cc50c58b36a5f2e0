"""From the names in a scenario to fabrics."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from netsim.topology.dragonfly import Dragonfly, DragonflyConfig
from netsim.topology.fat_tree import FatTree, FatTreeConfig
from netsim.topology.graph import Graph, GraphConfig
from netsim.topology.htsim import HtsimConfig, replaced
from netsim.topology.leaf_spine import LeafSpine, LeafSpineConfig
from netsim.topology.preset import PresetConfig, preset
from netsim.topology.protocol import Topology
from netsim.topology.torus import Torus, TorusConfig

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
