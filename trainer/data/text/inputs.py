"""The files that a user names: which of them are text, in which order, and how they are cut into chunks of work."""

import codecs
import gzip
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from moe.seeds import derive_seed
from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal

JSON_LINES = (".jsonl", ".jsonl.gz")
CHUNK_BYTES = 1 << 21
"""Least text that a process encodes at a time; a chunk of plain text is at most twice as long."""


@dataclass(frozen=True)
class TextFile:
    """A file to encode; its size is in bytes.

    Attributes:
        name: its file name, or its path below the parent of the folder that was given; decides its place among the
            files and whether it is held out.
        must_be_text: whether it is wrong input if it is no text; otherwise it is left out.
    """

    path: Path
    name: str
    size: int
    changed_ns: int
    must_be_text: bool

    @property
    def has_json_lines(self) -> bool:
        return self.name.endswith(JSON_LINES)

    def opened(self, raw: BinaryIO) -> BinaryIO | gzip.GzipFile:
        """Returns a stream of its uncompressed content, from a stream of the file as it is on the disk."""
        return gzip.GzipFile(fileobj=raw) if self.name.endswith(".jsonl.gz") else raw


class Piece(NamedTuple):
    """A part of file number `file`: whole lines of JSON, a whole document, or a part of a long one.

    Attributes:
        first: offset in the uncompressed file.
        ends: whether the bytes after it belong to another document.
        content: its bytes if they have been read; None if the process that encodes it must read them.
        read_bytes: bytes of the file on the disk that have been read once the piece is read; None: `end` of them.
    """

    file: int
    first: int
    size: int
    ends: bool
    is_text: bool = True
    content: bytes | None = None
    read_bytes: int | None = None

    @property
    def end(self) -> int:
        return self.first + self.size


class Place(NamedTuple):
    """Progress of reading: the number of a file, and the byte in it at which reading resumes."""

    file: int
    offset: int


START = Place(0, 0)


class Chunk(NamedTuple):
    """Work for one process: pieces in their order, and the place where the next chunk begins."""

    pieces: tuple[Piece, ...]
    after: Place


def listed_files(paths: Sequence[Path], endings: Sequence[str], out: Path) -> list[TextFile]:
    """Lists files, also those below folders, in an order that their names alone decide.

    Hidden files and folders are left out, and links to folders are not followed. From folders, files with one of
    `endings` are read, or all in UTF-8 if no endings are given. Refuses a folder without such files, two files of one
    name, and an `out` inside one of the paths.
    """
    files: dict[str, TextFile] = {}
    for path in paths:
        if out.resolve().is_relative_to(path.resolve()):
            raise Refusal(out, "--out", f"is inside {path}, whose files are read", "give a folder elsewhere")
        listed = _in_folder(path, endings) if path.is_dir() else [_text_file(path, path.name, must_be_text=True)]
        if not listed:
            wanted = f"file that ends in {' or '.join(endings)}" if endings else "file"
            raise Refusal(path, "folder", f"contains no {wanted}", "give files of text, or other --ending")
        for file in listed:
            other = files.setdefault(file.name, file)
            if other is not file:
                problem = f"has the name {file.name}, as {other.path} has"
                raise Refusal(file.path, "file", problem, "give each once, or the folder that both are in")
    return sorted(files.values(), key=lambda file: (derive_seed("file", file.name), file.name))


def chunks(
    files: Sequence[TextFile], start: Place = START, *, document_end: bytes | None = None, size: int = CHUNK_BYTES
) -> Iterator[Chunk]:
    """Cuts files into chunks of `size` bytes at least: the same, however often reading was broken off and resumed.

    `start` is the first byte to encode, the `after` of a chunk; without a `document_end` a file is one document.
    """
    pieces: list[Piece] = []
    held = 0
    for number in range(start.file, len(files)):
        file = files[number]
        try:
            for piece in _pieces(file, number, start.offset if number == start.file else 0, size, document_end):
                pieces.append(piece)
                held += piece.size
                if held >= size:
                    is_read = piece.end == file.size and not file.has_json_lines
                    yield Chunk(tuple(pieces), Place(number + 1, 0) if is_read else Place(number, piece.end))
                    pieces, held = [], 0
        except (OSError, EOFError) as error:
            raise unreadable(file, error) from error
    if pieces:
        yield Chunk(tuple(pieces), Place(len(files), 0))


def end_of_share(file: TextFile, share: float) -> int:
    """Offset of about a share of a plain file: at the end of a line, or of a letter where no line ends soon."""
    begins = round(file.size * (1 - share))
    try:
        with file.path.open("rb") as stream:
            return _behind_a_line(stream, begins, min(CHUNK_BYTES, (file.size - begins) // 2))
    except OSError as error:
        raise unreadable(file, error) from error


def unreadable(file: TextFile, error: Exception) -> Refusal:
    """Returns the Refusal of a file that cannot be read, or whose compression is damaged."""
    problem = getattr(error, "strerror", None) or str(error)
    return Refusal(file.path, "text", f"cannot be read ({problem})", "bring it back, or leave it out")


def holds_text(file: TextFile) -> bool:
    """Whether a whole file is UTF-8 without NUL; reads all of it, a part at a time."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with file.path.open("rb") as stream:
        try:
            while part := stream.read(CHUNK_BYTES):
                if b"\0" in part:
                    return False
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _in_folder(folder: Path, endings: Sequence[str]) -> list[TextFile]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or (endings and not name.endswith(tuple(endings))):
                continue
            path = Path(parent) / name
            if path.is_file():
                below = (Path(folder.resolve().name) / path.relative_to(folder)).as_posix()
                must = bool(endings) or name.endswith(JSON_LINES)
                files.append(_text_file(path, below, must_be_text=must))
    return files


def _text_file(path: Path, name: str, *, must_be_text: bool) -> TextFile:
    with reading(path, "give files or folders that can be read"):
        status = path.stat()
        with path.open("rb"):
            pass
    return TextFile(path, name, status.st_size, status.st_mtime_ns, must_be_text)


def _pieces(file: TextFile, number: int, offset: int, size: int, document_end: bytes | None) -> Iterator[Piece]:
    if file.has_json_lines:
        return _lines(file, number, offset, size)
    if file.size <= size:
        return iter((Piece(number, 0, file.size, ends=True),))
    if not file.must_be_text and offset == 0 and not holds_text(file):
        return iter((Piece(number, 0, 0, ends=True, is_text=False),))
    if document_end is not None:
        return _runs(file, number, offset, size, document_end)
    return _parts(file, number, offset, size)


def _lines(file: TextFile, number: int, offset: int, size: int) -> Iterator[Piece]:
    """Yields runs of whole lines; a compressed file is read here, for it can only be read in order."""
    with file.path.open("rb") as compressed, file.opened(compressed) as stream:
        stream.seek(offset)
        while True:
            content = read_bytes = None
            if isinstance(stream, gzip.GzipFile):
                content = stream.read(size) + stream.readline()
                length, read_bytes = len(content), compressed.tell()
            else:
                stream.seek(min(size, max(0, file.size - offset)), os.SEEK_CUR)
                stream.readline()
                length = stream.tell() - offset
            if not length:
                return
            yield Piece(number, offset, length, ends=True, content=content, read_bytes=read_bytes)
            offset += length


def _parts(file: TextFile, number: int, offset: int, size: int) -> Iterator[Piece]:
    """Parts of one long document, cut after a line, or after a letter where no line ends in the next `size` bytes."""
    with file.path.open("rb") as stream:
        while offset < file.size:
            end = min(_behind_a_line(stream, offset + size, size), file.size)
            yield Piece(number, offset, end - offset, ends=end == file.size)
            offset = end


def _behind_a_line(stream: BinaryIO, offset: int, size: int) -> int:
    """Returns the first offset from `offset` on that follows a line, or a letter if no line ends in `size` bytes."""
    stream.seek(offset)
    ahead = stream.read(max(size, 4))
    return offset + (
        ahead.find(b"\n", 0, size) + 1 or next((k for k in range(4) if not _continues(ahead[k : k + 1])), 0)
    )


def _runs(file: TextFile, number: int, offset: int, size: int, document_end: bytes) -> Iterator[Piece]:
    """Yields runs of whole documents, each cut after a `document_end`."""
    with file.path.open("rb") as stream:
        while offset < file.size:
            end, before = min(offset + size, file.size), b""
            stream.seek(end)
            while end < file.size:
                ahead = stream.read(size)
                position = (before + ahead).find(document_end)
                if position >= 0:
                    end += position - len(before) + len(document_end)
                    break
                end += len(ahead)
                before = (before + ahead)[1 - len(document_end) :]
            yield Piece(number, offset, end - offset, ends=True)
            offset = end


def _continues(byte: bytes) -> bool:
    """Whether a byte is not the first of a letter."""
    return bool(byte) and byte[0] & 0xC0 == 0x80
