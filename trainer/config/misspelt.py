"""Keys and kinds that no configuration of a run has, refused before the parts of a run are imported.

The parts bring torch, which takes seconds. The schema, from which editors complete, is read in milliseconds. It knows
less than the models: what passes here they may refuse.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from netsim.foundation.complaint import also_wrong, of_unknown_key, unknown_key, unknown_kind
from netsim.foundation.refusal import Refusal, nearest
from netsim.foundation.shipped import SHIPPED
from trainer.config.document import apply_override, check_is_of_a_run, read_document
from trainer.config.other_names import OTHER_NAMES

Node = dict[str, Any]
Place = tuple[int | str, ...]

SCHEMA = SHIPPED / "schemas" / "run.schema.json"


def check_names(path: Path, overrides: Sequence[str]) -> None:
    """Refuses an unknown key or kind in the words in which the models refuse it; overrides of stages are left for
    later.
    """
    document = read_document(path)
    for override in overrides:
        if not override.startswith("stages."):
            apply_override(path, document, override)
    check_is_of_a_run(path, document)
    document.pop("stages", None)
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    found = list(_Walk(schema["$defs"]).misspelt(document, [schema], ()))
    if not found:
        return
    (place, problem, remedy), *others = found
    further = {other: False for other, *_ in others if place[: len(other)] != other}
    raise Refusal(path, ".".join(map(str, place)), f"{problem} ({also_wrong(further)})" if further else problem, remedy)


class _Walk:
    """A walk over a document beside the schema of what may be in it."""

    def __init__(self, definitions: Node) -> None:
        self._definitions = definitions

    def misspelt(self, value: Any, nodes: Sequence[Node], place: Place) -> Iterator[tuple[Place, str, str]]:
        """Place, problem and remedy of each unknown key or kind in a value, which may be of any of some nodes."""
        if isinstance(value, list):
            items = [node["items"] for node in map(self._resolved, nodes) if "items" in node]
            for number, inner in enumerate(value):
                yield from self.misspelt(inner, items, (*place, number))
        if not isinstance(value, dict):
            return
        sections = [section for node in nodes for section in self._sections(node, value)]
        kinds = [kind for section in sections for kind in section.get("unknown_kind_of", ())]
        if kinds and not any("properties" in section for section in sections):
            near = nearest(value["kind"], kinds)
            yield (*place, "kind"), unknown_kind(value["kind"], kinds), f"use {near}" if near else "use one of them"
        if not sections or any(
            section.get("additionalProperties") is not False or "patternProperties" in section for section in sections
        ):
            return
        known: dict[str, list[Node]] = {}
        for section in sections:
            for key, node in section["properties"].items():
                known.setdefault(key, []).append(node)
        for key in known:
            if key in value:
                yield from self.misspelt(value[key], known[key], (*place, key))
        current = [key for key, found in known.items() if not any("deprecated" in node for node in found)]
        for key in value:
            if key not in known:
                yield (*place, key), unknown_key(value[key]), of_unknown_key(key, current, OTHER_NAMES)

    def _sections(self, node: Node, value: Node) -> Iterator[Node]:
        """The sections that a value with its kind may be by a node; one without `additionalProperties` may hold any."""
        node = self._resolved(node)
        if "x-class" in node:
            yield from [{}] if "class" in value else self._sections(node["else"], value)
        elif "discriminator" in node:
            places: dict[str, str] = node["discriminator"]["mapping"]
            kind = value.get("kind")
            if isinstance(kind, str) and kind not in places:
                yield {"unknown_kind_of": node["properties"]["kind"]["enum"]}
            else:
                fitting = [places[kind]] if isinstance(kind, str) else dict.fromkeys(places.values())
                yield from (self._resolved({"$ref": place}) for place in fitting)
        elif "anyOf" in node:
            for branch in node["anyOf"]:
                yield from self._sections(branch, value)
        elif node.get("type") == "object":
            yield node

    def _resolved(self, node: Node) -> Node:
        """A node, or the definition that it refers to."""
        while "$ref" in node:
            at: Any = self._definitions
            for part in node["$ref"].removeprefix("#/$defs/").split("/"):
                at = at[part]
            node = at
        return node
