"""Examples in a tar: members in a row whose names are alike up to the first dot."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from trainer.data.tar.members import Read, TarDamage, key_and_extension, walk


class Place(NamedTuple):
    """Where the content of a member lies."""

    offset: int
    size: int


class TarExample(NamedTuple):
    """An example, as a stretch of a tar that is a small tar without an end.

    Attributes:
        key: what the names of its members have in common.
        start: offset of its first header.
        end: offset at which the content of its last member ends.
        check: CRC-32 of its headers, which changes with names, sizes, times of change and owners.
        members: where each of its members lies, by extension.
    """

    key: str
    start: int
    end: int
    check: int
    members: Mapping[str, Place]


def walk_examples(read: Read, start: int = 0, end: int | None = None, *, verify: bool = True) -> Iterator[TarExample]:
    """The examples of a tar, or of a stretch of one; arguments as of :func:`walk`.

    Folders, links and members without an extension belong to none. Raises TarDamage on two members of one extension.
    """
    key, first, check = None, 0, 0
    members: dict[str, Place] = {}
    for member in walk(read, start, end, verify=verify):
        cut = key_and_extension(member.name) if member.regular else None
        if cut is None:
            continue
        if cut[0] != key:
            if key is not None:
                yield _example(key, first, check, members)
            key, first, check, members = cut[0], member.start, 0, {}
        if cut[1] in members:
            raise TarDamage(f"holds {member.name} twice in a row, so that one of the two would be lost")
        members[cut[1]] = Place(member.data, member.size)
        check = zlib.crc32(read(member.start, member.data), check)
    if key is not None:
        yield _example(key, first, check, members)


def _example(key: str, first: int, check: int, members: Mapping[str, Place]) -> TarExample:
    return TarExample(key, first, max(place.offset + place.size for place in members.values()), check, members)
