"""The keys that a JSON Schema of sections describes, in groups: one for each section, and one for each kind of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import yaml

Node = dict[str, Any]

ENTRY = "N"
"""Placeholder in a dotted key for a list's index."""
EITHER = " | "
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_NAMES = {"integer": "int", "number": "float", "string": "text", "boolean": "true | false", "null": "null"}
_OWN = "Your own class in place of a kind; the other keys are the settings of that class."


class Key(NamedTuple):
    """One key.

    Attributes:
        name: dotted, as in an override.
        values: what it takes.
        default: what it is where it is left out; "required" where there is none, empty where files say it.
        unit: what its number counts; empty: nothing.
        meaning: what it is for.
    """

    name: str
    values: str
    default: str
    unit: str
    meaning: str


class Part(NamedTuple):
    """A part of the place of a group: a key, or the kind that was chosen there."""

    name: str
    is_kind: bool = False


class Group(NamedTuple):
    """The keys of a section, or those that one kind of it adds.

    Attributes:
        place: from the top.
        meaning: of the section or the kind.
        keys: in the order of the schema; sections below it have groups of their own.
    """

    place: tuple[Part, ...]
    meaning: str
    keys: tuple[Key, ...]

    @property
    def condition(self) -> str:
        """The kinds that must be chosen for the group, such as ``data.kind = shards``; empty: none."""
        kinds = [number for number, part in enumerate(self.place) if part.is_kind]
        chosen = [f"{dotted((*self.place[:number], Part('kind')))} = {self.place[number].name}" for number in kinds]
        return ", ".join(chosen)

    @property
    def title(self) -> str:
        """The dotted place of the group, or the kinds that must be chosen for it."""
        if self.place and self.place[-1].is_kind:
            return self.condition
        return f"{dotted(self.place)} ({self.condition})" if self.condition else dotted(self.place)

    def matches(self, prefix: tuple[str, ...], key: str = "") -> bool:
        """Whether parts of a prefix, which may leave kinds out, lead to the last part of a key or to the group."""
        return _leads(prefix, (*self.place, *([Part(key)] if key else [])))


def groups(schema: Node, *, whole: bool = False) -> list[Group]:
    """The groups of a schema, from the top down; with `whole` a section is described wherever it may stand."""
    above = {node.get("$ref", "").rpartition("/properties/")[0] for node in schema["properties"].values()}
    return list(_Walk(schema, whole=whole).object(schema, (), schema.get("description", ""), tuple(above)))


def dotted(place: tuple[Part, ...]) -> str:
    """A place as a dotted key, without kinds."""
    return ".".join(part.name for part in place if not part.is_kind)


def _leads(prefix: tuple[str, ...], place: tuple[Part, ...]) -> bool:
    if not prefix:
        return True
    if not place:
        return False
    first, *rest = place
    named = prefix[0] in first.name.split(EITHER) or (first.name == ENTRY and prefix[0].isdigit())
    if named and _leads(prefix[1:], tuple(rest)):
        return True
    return (first.is_kind or first.name == ENTRY) and _leads(prefix, tuple(rest))


class _Walk:
    """One walk over a schema, with `whole` as in `groups`."""

    def __init__(self, schema: Node, *, whole: bool) -> None:
        self._schema = schema
        self._whole = whole
        self._first: dict[str, str] = {}

    def object(
        self, node: Node, place: tuple[Part, ...], meaning: str, above: tuple[str, ...], first: Sequence[Key] = ()
    ) -> Iterator[Group]:
        """The group of a section inside the sections `above`, with `first` before its keys, and the groups below."""
        keys: list[Key] = list(first)
        below: list[Group] = []
        for name, inner in node["properties"].items():
            if inner.get("deprecated") or (name == "kind" and place and place[-1].is_kind):
                continue
            here = (*place, Part(name))
            listed = _items(self._reached(inner))
            target = inner if listed is None else listed
            if listed is not None:
                here = (*here, Part(ENTRY))
            seen = {**self._deref(inner), **({"x-required": True} if name in node.get("required", ()) else {})}
            description, default = seen.get("description", ""), default_text(seen)
            kinds, section = self._kinds(target), self._section(target)
            if kinds is None and section is None:
                keys.append(
                    Key(dotted(here), values_text(seen, self._deref), default, seen.get("x-unit", ""), description)
                )
                continue
            identity = EITHER.join(kinds) if kinds else self._name(target)
            if identity in above or (not self._whole and identity in self._first):
                values = f"section, as {self._first.get(identity, 'this document')}"
                keys.append(Key(dotted(here), values, default, "", description))
                continue
            self._first[identity] = Group(here, description, ()).title
            own = [Key(f"{dotted(here)}.class", "module:Class", "", "", _OWN)] if self._takes_class(target) else []
            if kinds is None:
                assert section is not None
                below += self.object(section, here, description, (*above, identity), own)
                if default == "null":
                    keys.append(Key(dotted(here), "section", default, "", description))
                continue
            choice = Key(f"{dotted(here)}.kind", EITHER.join(kinds.values()), default, "", description)
            below.append(Group(here, description, (choice, *own)))
            for reference, kind in kinds.items():
                member = self._deref({"$ref": reference})
                chosen = (*here, Part(kind, is_kind=True))
                below += self.object(member, chosen, member.get("description", ""), (*above, identity))
        if keys or not place or place[-1].is_kind:
            yield Group(place, meaning, tuple(keys))
        yield from below

    def _kinds(self, node: Node) -> dict[str, str] | None:
        """The names of the kinds of a section by the references to them; None: it has no kinds."""
        reached = self._reached(node)
        references = [one["$ref"] for one in (*reached.get("anyOf", ()), *reached.get("oneOf", ())) if "$ref" in one]
        if "discriminator" in reached:
            references = list(dict.fromkeys(reached["discriminator"]["mapping"].values()))
        members = {reference: self._deref({"$ref": reference}).get("properties", {}) for reference in references}
        kinds = {reference: properties.get("kind", {}) for reference, properties in members.items()}
        if not kinds or not all(kinds.values()):
            return None
        return {
            reference: EITHER.join(kind["enum"]) if "enum" in kind else kind["const"]
            for reference, kind in kinds.items()
        }

    def _takes_class(self, node: Node) -> bool:
        node = self._deref(node)
        return "x-class" in node or any(self._takes_class(one) for one in node.get("anyOf", ()))

    def _deref(self, node: Node) -> Node:
        """Resolves the references of a node; keys of the node itself take precedence."""
        while "$ref" in node:
            target: Any = self._schema
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
        return node

    def _reached(self, node: Node) -> Node:
        """The node behind references, without the choices of null and of a user's class."""
        node = self._deref(node)
        if "x-class" in node:
            return self._reached(node["else"])
        for choices in (node.get("anyOf"), node.get("oneOf") if "discriminator" not in node else None):
            others = [one for one in choices or () if one.get("type") != "null"]
            if len(others) == 1:
                return self._reached(others[0])
            sections = [one for one in others if "discriminator" in one or self._section(one) is not None]
            if len(sections) == 1:
                return self._reached(sections[0])
        return node

    def _section(self, node: Node) -> Node | None:
        reached = self._reached(node)
        return reached if "properties" in reached and self._kinds(reached) is None else None

    def _name(self, node: Node) -> str:
        """Identity of a section: the reference to its definition."""
        if "$ref" in node and "properties" in self._deref(node):
            name = node["$ref"]
            target = self._deref({"$ref": name})
            return name if "x-class" not in target else self._name(target["else"])
        for choices in (node.get("anyOf", ()), node.get("oneOf", ())):
            for one in choices:
                if one.get("type") != "null" and self._section(one) is not None:
                    return self._name(one)
        if "x-class" in node:
            return self._name(node["else"])
        if "$ref" in node:
            return self._name(self._deref(node))
        return str(id(node))


def _items(node: Node) -> Node | None:
    """The node of a list's entries; None: it is no list, or a list of plain values."""
    items = node.get("items")
    if not isinstance(items, dict):
        return None
    described = any(name in items for name in ("discriminator", "properties", "$ref", "anyOf", "oneOf", "x-class"))
    return items if described and "enum" not in items else None


def values_text(node: Node, deref: Callable[[Node], Node]) -> str:
    """The values that a key takes, such as ``int ≥ 1``."""
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
    """Text of a key's default, or "required"; empty if the schema gives none."""
    if node.get("x-required"):
        return "required"
    if "default" not in node:
        return ""
    default = node["default"]
    return default["kind"] if isinstance(default, dict) and list(default) == ["kind"] else _written(default)


def _written(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("...\n").strip()
