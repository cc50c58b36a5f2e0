"""Chakra's schema for Google's protocol buffers: an encoder and decoder that owes nothing to ours."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, proto

SCALARS = (
    ("double", 3),
    ("float", 5),
    ("int32", 7),
    ("int64", 9),
    ("uint32", 11),
    ("uint64", 13),
    ("sint32", 15),
    ("sint64", 17),
    ("fixed32", 19),
    ("fixed64", 21),
    ("sfixed32", 23),
    ("sfixed64", 25),
    ("bool", 27),
    ("string", 29),
    ("bytes", 31),
)
"""Types of attributes and the field numbers of their single values; the list of the same follows each."""

_Proto = descriptor_pb2.FieldDescriptorProto
_OPTIONAL, _REPEATED = _Proto.LABEL_OPTIONAL, _Proto.LABEL_REPEATED


def _messages(package: str, syntax: str, shapes: Mapping[str, Sequence[tuple[str, int, str, bool]]]) -> dict[str, Any]:
    """Classes of messages; a field is a name, number, type and whether it is repeated."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax=syntax)
    for name, fields in shapes.items():
        message = file.message_type.add(name=name)
        if any(field.endswith("_val") for field, *_ in fields):
            message.oneof_decl.add(name="value")
        for field, number, kind, repeated in fields:
            added = message.field.add(name=field, number=number, label=_REPEATED if repeated else _OPTIONAL)
            if field.endswith(("_val", "_list")):
                added.oneof_index = 0
            if kind in shapes:
                added.type, added.type_name = _Proto.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = getattr(_Proto, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in shapes}


TODAY = _messages(
    "today",
    "proto3",
    {f"{kind}List": [("values", 1, kind, True)] for kind, _ in SCALARS}
    | {
        "Attribute": [
            ("name", 1, "string", False),
            ("doc_string", 2, "string", False),
            *((f"{kind}_val", number, kind, False) for kind, number in SCALARS),
            *((f"{kind}_list", number + 1, f"{kind}List", False) for kind, number in SCALARS),
        ],
        "Metadata": [("version", 1, "string", False), ("attr", 2, "Attribute", True)],
        "Node": [
            ("id", 1, "uint64", False),
            ("name", 2, "string", False),
            ("type", 3, "uint32", False),
            ("ctrl_deps", 4, "uint64", True),
            ("data_deps", 5, "uint64", True),
            ("duration_micros", 7, "uint64", False),
            ("attr", 10, "Attribute", True),
        ],
    },
)
EARLIER = _messages(
    "earlier",
    "proto2",
    {
        "Attribute": [
            ("name", 1, "string", False),
            ("type", 2, "uint32", False),
            ("b", 4, "bool", False),
            ("f", 5, "float", False),
            ("u", 6, "uint64", False),
            ("i", 7, "int64", False),
            ("s", 8, "string", False),
            ("bools", 9, "bool", True),
        ],
        "Metadata": [("attribute", 1, "Attribute", True)],
        "Node": [
            ("id", 1, "uint64", False),
            ("name", 2, "string", False),
            ("type", 3, "uint32", False),
            ("parent", 4, "uint64", True),
            ("inputs", 5, "string", False),
            ("attribute", 11, "Attribute", True),
        ],
    },
)
_KINDS = {bool: "bool_val", int: "int64_val", str: "string_val"}


def node(identity: int, kind: int, after: Sequence[int] = (), duration_us: int = 0, **attributes: Any) -> Any:
    """A node of today's schema."""
    made = TODAY["Node"](id=identity, type=kind, data_deps=after, duration_micros=duration_us)
    for name, value in attributes.items():
        if isinstance(value, tuple):
            made.attr.add(name=name).int64_list.values.extend(value)
        else:
            made.attr.add(name=name, **{_KINDS[type(value)]: value})
    return made


def earlier_node(identity: int, kind: int, parents: Sequence[int] = (), **attributes: Any) -> Any:
    """A node of the schema before; its attributes are integers, booleans and lists of booleans."""
    made = EARLIER["Node"](id=identity, name="node", type=kind, parent=parents, inputs="[1, 2]")
    for name, value in attributes.items():
        if isinstance(value, bool):
            made.attribute.add(name=name, type=0, b=value)
        elif isinstance(value, tuple):
            made.attribute.add(name=name, type=5, bools=value)
        else:
            made.attribute.add(name=name, type=3, i=value)
    return made


def encoded(messages: Sequence[Any]) -> bytes:
    """Messages behind their lengths; one that is given as bytes is shorter than 128."""
    output = BytesIO()
    for message in messages:
        if isinstance(message, bytes):
            output.write(bytes([len(message)]) + message)
        else:
            proto.serialize_length_prefixed(message, output)
    return output.getvalue()


def metadata(**groups: Sequence[int]) -> Any:
    """The first message of a file, with process groups."""
    made = TODAY["Metadata"](version="0.0.4")
    for name, ranks in groups.items():
        made.attr.add(name=f"pg_ranks.{name}").int64_list.values.extend(ranks)
    return made


def write(folder: Path, *ranks: Sequence[Any], first: Any = None, name: str = "t") -> Path:
    """One file a rank; returns the folder."""
    folder.mkdir(exist_ok=True)
    start = [metadata() if first is None else first]
    for rank, nodes in enumerate(ranks):
        (folder / f"{name}.{rank}.et").write_bytes(encoded([*start, *nodes]))
    return folder
