"""The kinds of section ``topology``, and the preset, a name or file that stands for one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from netsim.foundation.documents import read_shipped
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from netsim.topology.dragonfly import DragonflyConfig
from netsim.topology.fat_tree import FatTreeConfig
from netsim.topology.graph import GraphConfig
from netsim.topology.htsim import HtsimConfig, replaced
from netsim.topology.leaf_spine import LeafSpineConfig
from netsim.topology.torus import TorusConfig


class PresetConfig(Section, extra="allow"):
    """Section ``topology`` of kind ``preset``. The file gives the fabric; further keys of the section override it.

    Args:
        name: Name of a file in configs/topologies without its ending, such as dgx_h100_32, or the path of a YAML file
            of your own, which holds a section topology.
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
    content = read_shipped(Path(name), "a topology", "topologies")
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
