"""Members of a tar, and the examples that they make up."""

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

BLOCK = 512
REGULAR = b"0\0007"
"""Type flags of files with content."""
WITHOUT_CONTENT = b"123456"
"""Type flags of links, devices, folders and pipes, which have no content whatever their size field says."""
MOST_BYTES, MOST_HEADER_BYTES = 1 << 60, 1 << 20
"""Most bytes of a member, and of an extended header."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Read = Callable[[int, int], bytes | memoryview]
"""Reads the bytes from one offset up to another; fewer where the file ends before."""

_META = re.compile(r"__[^/]*__(/|$)")
_PAX_RECORD = re.compile(rb"(\d+) ([^=]+)=")


class TarDamage(ValueError):  # noqa: N818  it is what was found
    """Bytes that are not those of a tar file; the message says where and what."""


class Member(NamedTuple):
    """A member of a tar: offsets of its first header and of its content, and the length of that, in bytes."""

    name: str
    start: int
    data: int
    size: int
    regular: bool


def walk(read: Read, start: int = 0, end: int | None = None, *, verify: bool = True) -> Iterator[Member]:
    """Members of a tar, or of a stretch that begins with a header; TarDamage on a bad header or a cut-off file.

    `end`: offset at which the stretch ends; None: it ends at the archive's end mark. `verify`: whether checksums of
    headers are verified.
    """
    offset = start
    while end is None or offset < end:
        first, long_name, pax = offset, None, {}
        while True:
            header = bytes(read(offset, offset + BLOCK))
            if len(header) < BLOCK:
                raise TarDamage(f"is cut off: it ends before byte {offset:,}, where a header or its end mark is due")
            if header[0] == 0 and not any(header):
                return
            if verify and not _checksum_fits(header):
                raise TarDamage(f"has no header of a tar member at byte {offset:,}{_compression(header)}")
            size = _number(header[124:136], offset)
            kind = header[156:157]
            data = offset + BLOCK
            if kind not in (b"L", b"K", b"x", b"g"):
                break
            if size > MOST_HEADER_BYTES:
                raise TarDamage(f"has a header of {size:,} bytes at byte {offset:,}, which no name needs")
            content = bytes(read(data, data + size))
            if kind == b"L":
                long_name = content.partition(b"\0")[0]
            elif kind == b"x":
                pax = _pax(content, offset)
            offset = data + _padded(size)
        if kind == b"S" or any(key.startswith(b"GNU.sparse") for key in pax):
            raise TarDamage(f"holds a sparse file at byte {offset:,}, which no reader of WebDataset expects")
        if b"size" in pax:
            size = _checked(pax[b"size"].decode("ascii", "replace"), 10, offset)
        name = pax.get(b"path") or long_name or _name(header)
        regular = kind in REGULAR and not (kind == b"\0" and name.endswith(b"/"))
        if kind in WITHOUT_CONTENT or (kind in REGULAR and not regular):
            size = 0
        yield Member(name.decode("utf-8", "backslashreplace"), first, data, size, regular)
        offset = data + _padded(size)


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Key and extension of a member's name, as WebDataset cuts it: at the first dot of the last part, in lower case.

    None if it has no dot, begins with one, or is that of a note about the tar (``__name__``).
    """
    folder, slash, last = name.rpartition("/")
    stem, dot, extension = last.partition(".")
    if not (stem and dot) or _META.match(name):
        return None
    return f"{folder}{slash}{stem}", extension.lower()


def _number(field: bytes, offset: int) -> int:
    """Reads a size in a header: octal digits, or a binary number, whose first bit is set."""
    if field[0] == 0x80:
        return _checked(field[1:].hex(), 16, offset)
    return _checked(field.strip(b"\0 ").decode("ascii", "replace") or "0", 8, offset)


def _checked(digits: str, base: int, offset: int) -> int:
    """Reads a number of bytes; raises TarDamage where no file can have as many."""
    try:
        size = int(digits, base)
    except ValueError:
        size = -1
    if not 0 <= size <= MOST_BYTES:
        raise TarDamage(f"has a header at byte {offset:,} with a size that is none ({digits[:20]})")
    return size


def _checksum_fits(header: bytes) -> bool:
    """Whether a header's checksum is the sum of its bytes, with the field of the checksum taken as blanks."""
    try:
        said = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    return said == sum(header[:148]) + 8 * 32 + sum(header[156:])


def _compression(header: bytes) -> str:
    names = [name for magic, name in COMPRESSED.items() if header.startswith(magic)]
    return f" ({names[0]} has compressed it, so that nothing in it can be found)" if names else ""


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(content: bytes, offset: int) -> dict[bytes, bytes]:
    """Records ``LENGTH KEY=VALUE\\n``, where the length is that of the whole record."""
    records: dict[bytes, bytes] = {}
    while content:
        match = _PAX_RECORD.match(content)
        if match is None or not match.end() < int(match[1]) <= len(content):
            raise TarDamage(f"has an extended header at byte {offset:,} that cannot be read")
        records[match[2]] = content[match.end() : int(match[1]) - 1]
        content = content[int(match[1]) :]
    return records


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class Place(NamedTuple):
    """Offset and size of a member's content, in bytes."""

    offset: int
    size: int


class TarExample(NamedTuple):
    """An example: a stretch of a tar from its first header to the end of its last content, and members by extension.

    `check` is the CRC-32 of its headers, which changes with names, sizes, times of change and owners.
    """

    key: str
    start: int
    end: int
    check: int
    members: Mapping[str, Place]


def walk_examples(read: Read, start: int = 0, end: int | None = None, *, verify: bool = True) -> Iterator[TarExample]:
    """The examples of a tar, or of a stretch; folders, links and members without an extension belong to none.

    Raises TarDamage on two members of one extension.
    """
    regular = (member for member in walk(read, start, end, verify=verify) if member.regular)
    named = ((*cut, member) for member in regular if (cut := key_and_extension(member.name)))
    for key, group in groupby(named, key=itemgetter(0)):
        members: dict[str, Place] = {}
        first = check = 0
        for _, extension, member in group:
            if extension in members:
                raise TarDamage(f"holds {member.name} twice in a row, so that one of the two would be lost")
            if not members:
                first = member.start
            members[extension] = Place(member.data, member.size)
            check = zlib.crc32(read(member.start, member.data), check)
        yield TarExample(key, first, max(place.offset + place.size for place in members.values()), check, members)


def read_ahead(read: Read, ahead: int) -> Read:
    """Returns a reader that reads at least `ahead` bytes and keeps them, so that adjacent short reads become one."""
    first, kept = 0, b""

    def through(start: int, end: int) -> bytes:
        nonlocal first, kept
        if not first <= start <= end <= first + len(kept):
            first, kept = start, bytes(read(start, max(end, start + ahead)))
        return kept[start - first : end - first]

    return through
