"""What a node of a JSON Schema takes, and what it is by default, in the words of a person."""

from collections.abc import Callable
from typing import Any

import yaml

Node = dict[str, Any]

_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_NAMES = {"integer": "int", "number": "float", "string": "text", "boolean": "true | false", "null": "null"}


def values_text(node: Node, deref: Callable[[Node], Node]) -> str:
    """The values that a key takes, such as ``int ≥ 1``.

    Args:
        node: of the key.
        deref: what a node refers to.
    """
    node = deref(node)
    if "x-values" in node:
        return node["x-values"]
    if "enum" in node:
        return " | ".join(map(_written, node["enum"]))
    if "const" in node:
        return _written(node["const"])
    for choices in (node.get("anyOf"), node.get("oneOf")):
        if choices:
            return " | ".join(dict.fromkeys(values_text(one, deref) for one in choices))
    match node.get("type"):
        case "array" if "prefixItems" in node:
            return f"[{', '.join(values_text(one, deref) for one in node['prefixItems'])}]"
        case "array":
            return f"list of {values_text(node.get('items', {}), deref)}"
        case "object" if isinstance(node.get("additionalProperties"), dict):
            return f"mapping to {values_text(node['additionalProperties'], deref)}"
        case "object":
            return "mapping"
        case "string" if node.get("format") in ("path", "file-path", "directory-path"):
            return "path"
        case str(name):
            bounds = [f"{sign} {_written(node[bound])}" for bound, sign in _BOUNDS if bound in node]
            return " ".join((_NAMES[name], ", ".join(bounds))).strip()
    return "anything"


def default_text(node: Node) -> str:
    """What a key is where it is left out; empty: nothing is known of it here."""
    if node.get("x-required"):
        return "required"
    if "default" not in node:
        return ""
    default = node["default"]
    return default["kind"] if isinstance(default, dict) and list(default) == ["kind"] else _written(default)


def _written(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()
