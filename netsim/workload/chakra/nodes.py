"""The nodes of an execution trace, in either generation of the schema.

MLCommons Chakra, schema/protobuf/et_def.proto. The present generation (version 0.0.4 and later) has attributes with
typed values, ctrl_deps and data_deps, and ten collectives. The earlier one (0.0.3) has attributes with a type and a
value, one list of parents, and five collectives under other numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from netsim.workload.chakra.wire import Field, Wire, WireError, number, read_fields, signed, zigzag

Attribute = int | float | str | bytes | tuple[int | float | str | bytes, ...]


class NodeType(IntEnum):
    """Types of nodes; only the three types of communication move bytes over the network."""

    INVALID_NODE = 0
    METADATA_NODE = 1
    MEM_LOAD_NODE = 2
    MEM_STORE_NODE = 3
    COMP_NODE = 4
    COMM_SEND_NODE = 5
    COMM_RECV_NODE = 6
    COMM_COLL_NODE = 7
    STORAGE_NODE = 8
    BATCH_NODE = 9
    CHECKPOINT_NODE = 10


COLLECTIVES = (
    "all_reduce",
    "reduce",
    "all_gather",
    "gather",
    "scatter",
    "broadcast",
    "all_to_all",
    "reduce_scatter",
    "reduce_scatter",
    "barrier",
)
"""Collectives by comm_type; 8 is REDUCE_SCATTER_BLOCK."""
_EARLIER_COLLECTIVES = ("all_reduce", "all_to_all", "all_gather", "reduce_scatter", "broadcast")


class Node(NamedTuple):
    """A node; `control` are the nodes that called it, `data` those that must end before it starts.

    The duration of communication is the recorded one. `collective` is None without a comm_type, "" for an unknown one.
    """

    id: int
    name: str
    type: NodeType
    control: Sequence[int]
    data: Sequence[int]
    duration_us: int
    attributes: Mapping[str, Attribute]
    collective: str | None


def read_metadata(message: bytes) -> dict[str, Attribute] | None:
    """Attributes of the first message of a file; None if that is already a node, as early versions have it."""
    fields = list(read_fields(message))
    if any(field.number == 1 and field.wire is Wire.VARINT for field in fields):
        return None
    attributes: dict[str, Attribute] = {}
    for field in fields:
        if field.number == 1 and not _is_message(field):
            attributes["version"] = field.text()
        elif field.number in (1, 2):
            content = list(read_fields(field.content()))
            attributes.update([_earlier_attribute(content) if _is_earlier(content) else _attribute(content)])
    return attributes


def is_earlier(message: bytes) -> bool:
    """Whether a node can only be of the earlier generation of the schema."""
    attributes = (field.content() for field in read_fields(message) if field.number == 11 and field.wire is Wire.LENGTH)
    return any(_is_earlier(list(read_fields(attribute))) for attribute in attributes)


def read_node(message: bytes, *, earlier: bool) -> Node:
    """Reads a node; `earlier`: of the earlier generation of the schema."""
    identity, name, kind, duration_us = 0, "", 0, 0
    control: list[int] = []
    data: list[int] = []
    attributes: dict[str, Attribute] = {}
    for field in read_fields(message):
        match field.number, earlier:
            case 1, _:
                identity = field.integer()
            case 2, _:
                name = field.text()
            case 3, _:
                kind = field.integer()
            case (4, True) | (5, False):
                data += field.integers()
            case 4, False:
                control += field.integers()
            case 7, False:
                duration_us = field.integer()
            case 10, False:
                attributes.update([_attribute(list(read_fields(field.content())))])
            case 11, True:
                attributes.update([_earlier_attribute(list(read_fields(field.content())))])
    if kind > max(NodeType):
        raise WireError(f"node {identity} has an unknown type ({kind})")
    runtime = attributes.get("runtime")
    if earlier and isinstance(runtime, int):
        duration_us = runtime
    named = collective(attributes.get("comm_type"), _EARLIER_COLLECTIVES if earlier else COLLECTIVES)
    return Node(identity, name, NodeType(kind), control, data, duration_us, attributes, named)


def collective(comm_type: Attribute | None, names: Sequence[str] = COLLECTIVES) -> str | None:
    """Name of a comm_type; None if there is none, "" if it does not exist."""
    if comm_type is None:
        return None
    return names[comm_type] if isinstance(comm_type, int) and 0 <= comm_type < len(names) else ""


def _is_message(field: Field) -> bool:
    """Whether a field holds a message, and not the text of a version, which begins with no known field number."""
    try:
        return any(inner.number == 1 and inner.wire is Wire.LENGTH for inner in read_fields(field.content()))
    except WireError:
        return False


_FIXED = {3: "<d", 5: "<f", 19: "<I", 21: "<Q", 23: "<i", 25: "<q"}
_SIGNED, _UNSIGNED, _ZIGZAG, _TEXT, _BYTES = (7, 9), (11, 13, 27), (15, 17), 29, 31


def _attribute(fields: Iterable[Field]) -> tuple[str, Attribute]:
    """Name and value of an attribute; single values have odd field numbers, lists of that type the next number."""
    name, value = "", ""
    for field in fields:
        if field.number == 1:
            name = field.text()
        elif 3 <= field.number <= 32:
            single = field.number if field.number % 2 else field.number - 1
            if field.number == single:
                value = _value(field, single)
            else:
                parts = [part for part in read_fields(field.content()) if part.number == 1]
                value = tuple(item for part in parts for item in _values(part, single))
    return name, value


def _value(field: Field, kind: int) -> int | float | str | bytes:
    if kind in _FIXED:
        return number(field, _FIXED[kind])
    if kind in (_TEXT, _BYTES):
        return field.text() if kind == _TEXT else field.content()
    value = field.integer()
    if kind in _UNSIGNED:
        return value
    return signed(value) if kind in _SIGNED else zigzag(value)


def _values(field: Field, kind: int) -> Iterable[int | float | str | bytes]:
    if kind in (_TEXT, _BYTES):
        return [_value(field, kind)]
    if kind not in _FIXED:
        return [_value(Field(field.number, Wire.VARINT, item), kind) for item in field.integers()]
    wire, width = (Wire.FIXED64, 8) if _FIXED[kind] in ("<d", "<Q", "<q") else (Wire.FIXED32, 4)
    packed = field.content() if field.wire is Wire.LENGTH else field.value
    if isinstance(packed, int) or len(packed) % width:
        raise WireError(f"field {field.number} has another width")
    return [_value(Field(1, wire, packed[at : at + width]), kind) for at in range(0, len(packed), width)]


def _is_earlier(attribute: Sequence[Field]) -> bool:
    """Whether an attribute is of the earlier generation: field 2 is a type there, and a text today."""
    return any(field.number == 2 and field.wire is Wire.VARINT for field in attribute)


def _earlier_attribute(fields: Sequence[Field]) -> tuple[str, Attribute]:
    """Name and value; a value of type k lies in field k + 4, repeated if it is a list."""
    name, kind = "", 0
    values: list[int | float | str | bytes] = []
    for field in fields:
        if field.number == 1:
            name = field.text()
        elif field.number == 2:
            kind = field.integer()
            if kind > 9:
                raise WireError(f"attribute {name!r:.40} has an unknown type ({kind})")
    for field in fields:
        if field.number == kind + 4:
            if field.wire is Wire.VARINT:
                values.append(signed(field.integer()))
            else:
                values.append(number(field, "<f") if field.wire is Wire.FIXED32 else field.text())
    if kind == 1 and any(isinstance(value, int) for value in values):
        raise WireError("the schema is older than 0.0.3, whose types of nodes have other numbers")
    return name, values[0] if len(values) == 1 else tuple(values)
