"""Which keys a JSON Schema of sections asks for, apart from what each key may hold.

A configuration with stages leaves keys to them, so that the two are kept apart: the schema of a section names no key
that must be there, and what this makes of it names nothing else.
"""

from typing import Any

Node = dict[str, Any]
PREFIX = "#/$defs/"


def complete(node: Node, definitions: Node) -> Node:
    """A schema that requires the keys which a node notes as ``x-required``, in it and below; `definitions` gains its
    own.
    """
    return _asked(node, definitions) or {}


def _asked(node: Node, definitions: Node) -> Node | None:
    if "$ref" in node:
        return _referred(node["$ref"].removeprefix(PREFIX), definitions)
    if "discriminator" in node:
        found = {kind: _asked({"$ref": place}, definitions) for kind, place in node["discriminator"]["mapping"].items()}
        chosen = [
            {"if": {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": asked}
            for kind, asked in found.items()
            if asked
        ]
        return {"allOf": chosen} if chosen else None
    if "else" in node and "x-class" in node:
        asked = _asked(node["else"], definitions)
        return asked and {"if": {"type": "object", "required": ["class"]}, "else": asked}
    if "anyOf" in node:
        objects = [asked for one in node["anyOf"] if (asked := _asked(one, definitions))]
        return {"if": {"type": "object"}, "then": objects[0]} if len(objects) == 1 else None
    properties: Node = node.get("properties", {})
    required = [name for name, inner in properties.items() if inner.get("x-required")]
    below = {name: asked for name, inner in properties.items() if (asked := _asked(inner, definitions))}
    found = {"required": required, "properties": below}
    return {key: value for key, value in found.items() if value} or None


def _referred(name: str, definitions: Node) -> Node | None:
    """A reference to what a definition asks for; None: to nothing."""
    asked_name = f"{name}.complete"
    if asked_name not in definitions:
        definitions[asked_name] = None  # a section that holds itself
        definitions[asked_name] = _asked(definitions[name], definitions)
        if definitions[asked_name] is None:
            del definitions[asked_name]
            return None
    return {"$ref": f"{PREFIX}{asked_name}"}
