"""The key ``queue`` of all topologies: the length of the queue in front of a link."""

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from netsim.units import format_size, parse_size


def _room(value: object) -> int | None:
    if value is None or value == "unlimited":
        return None
    room = parse_size(value)
    if not room:
        raise ValueError("a queue without room passes nothing; write a size such as 800KB, or unlimited")
    return room


Queue = Annotated[
    int | None,
    BeforeValidator(_room),
    PlainSerializer(lambda room: "unlimited" if room is None else format_size(room), return_type=str),
    WithJsonSchema({"type": "string", "x-values": "size such as 800KB | unlimited"}),
]
"""Bytes of unfinished work that may wait in front of a link, None without limit; ``unlimited`` or a size."""
