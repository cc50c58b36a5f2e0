"""A topology by its name, or from a file of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from netsim.foundation.refusal import Refusal
from netsim.section import Section
from netsim.yaml_file import load_yaml


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
