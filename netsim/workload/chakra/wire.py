"""The parts of the protocol buffer wire format that execution traces use.

Google: Protocol Buffers, "Encoding" (protobuf.dev/programming-guides/encoding).
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple

_WORD = (1 << 64) - 1
_SIGN = 1 << 63


class WireError(ValueError):
    """Bytes that are no message."""


class Wire(IntEnum):
    """Wire type of a field."""

    VARINT = 0
    FIXED64 = 1
    LENGTH = 2
    FIXED32 = 5


_LAYOUTS = frozenset(Wire)


class Field(NamedTuple):
    """A field of a message; its value is an unsigned integer for VARINT, the bytes for all else."""

    number: int
    wire: Wire
    value: int | bytes

    def integer(self) -> int:
        """The value of a VARINT, unsigned."""
        if not isinstance(self.value, int):
            raise WireError(f"field {self.number} is not an integer")
        return self.value

    def content(self) -> bytes:
        """The bytes of a field with a length: text or a message."""
        if self.wire is not Wire.LENGTH or isinstance(self.value, int):
            raise WireError(f"field {self.number} is neither text nor a message")
        return self.value

    def text(self) -> str:
        """The content as text."""
        try:
            return self.content().decode("utf-8")
        except UnicodeDecodeError:
            raise WireError(f"field {self.number} is not UTF-8 text") from None

    def integers(self) -> Iterator[int]:
        """One VARINT, or as many as are packed into the content."""
        if self.wire is Wire.VARINT:
            yield self.integer()
            return
        data, position = self.content(), 0
        while position < len(data):
            value, position = read_varint(data, position)
            yield value


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer at `position`, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise WireError("an integer is cut off")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _WORD, position
    raise WireError("an integer is longer than 64 bits")


def read_fields(data: bytes) -> Iterator[Field]:
    """The fields of a message, in their order."""
    position = 0
    while position < len(data):
        key, position = read_varint(data, position)
        number, layout = key >> 3, key & 7
        if not 0 < number < 1 << 29 or layout not in _LAYOUTS:
            raise WireError(f"there is no field {number} of wire type {layout}")
        wire = Wire(layout)
        if wire is Wire.VARINT:
            value, position = read_varint(data, position)
            yield Field(number, wire, value)
            continue
        length = 8 if wire is Wire.FIXED64 else 4
        if wire is Wire.LENGTH:
            length, position = read_varint(data, position)
        if length > len(data) - position:
            raise WireError(f"field {number} is cut off")
        yield Field(number, wire, data[position : position + length])
        position += length


def read_messages(data: bytes) -> Iterator[bytes]:
    """Messages that follow each other, each behind its length."""
    position = 0
    while position < len(data):
        length, position = read_varint(data, position)
        if length > len(data) - position:
            raise WireError(f"a message of {length} bytes is cut off")
        yield data[position : position + length]
        position += length


def signed(value: int) -> int:
    """An unsigned integer of 64 bits as int32 and int64 mean it."""
    return value - (1 << 64) if value & _SIGN else value


def zigzag(value: int) -> int:
    """An unsigned integer as sint32 and sint64 mean it."""
    return value >> 1 ^ -(value & 1)


def number(field: Field, layout: str) -> float:
    """A number of 4 or 8 bytes in the format `layout` of `struct.unpack`."""
    if isinstance(field.value, int) or len(field.value) != struct.calcsize(layout):
        raise WireError(f"field {field.number} has another width")
    return struct.unpack(layout, field.value)[0]


def write_varint(value: int) -> bytes:
    """An integer in [-2**63, 2**64)."""
    value &= _WORD
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def write_integer(number: int, value: int) -> bytes:
    """A field that holds an integer."""
    return write_varint(number << 3 | Wire.VARINT) + write_varint(value)


def write_content(number: int, content: bytes) -> bytes:
    """A field that holds text or a message."""
    return write_varint(number << 3 | Wire.LENGTH) + write_varint(len(content)) + content


def write_integers(number: int, values: Iterable[int]) -> bytes:
    """A field that holds integers, packed."""
    return write_content(number, b"".join(map(write_varint, values)))


def write_message(content: bytes) -> bytes:
    """A message behind its length."""
    return write_varint(len(content)) + content
