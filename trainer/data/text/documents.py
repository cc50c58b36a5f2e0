"""Turns a chunk of files into the tokens of its documents, by the split that each document belongs to."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe.seeds import derive_seed
from netsim.foundation.refusal import Refusal
from trainer.data.shard.index import SPLITS, Split
from trainer.data.text.inputs import Chunk, Piece, TextFile, unreadable
from trainer.data.text.tokens import Tokenizer, token_type


class Document(NamedTuple):
    """A document in UTF-8, or a part of a long one that `ends` here or not; held out if `draw` is below the share."""

    text: bytes
    draw: float
    ends: bool


@dataclass
class SplitPart:
    """A chunk's part of a split: tokens with end tokens, number of documents that end here, bytes of UTF-8."""

    tokens: NDArray[np.integer[Any]]
    num_documents: int = 0
    num_bytes: int = 0


@dataclass
class EncodedChunk:
    """A chunk's part of each split, and why each file or line that is no text was omitted."""

    splits: Mapping[Split, SplitPart]
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DocumentReader:
    """Finds the documents of files.

    Attributes:
        held_out_share: share of the documents that is held out; a larger one contains a smaller one.
        skips_bad_lines: whether lines without a document are left out; otherwise they are wrong input.
        document_end: separator of the documents of a plain file; None: each file is one document.
        cut: offset in bytes from which on the only file is held out; None: whole documents are held out.
    """

    files: Sequence[TextFile]
    text_key: str
    held_out_share: float
    skips_bad_lines: bool
    document_end: bytes | None = None
    cut: int | None = None

    def encode(self, chunk: Chunk, tokenizer: Tokenizer, end_token: int) -> EncodedChunk:
        """Reads and encodes a chunk; refuses a file that cannot be read, or is no text where it must be."""
        left_out: list[str] = []
        documents = [document for piece in chunk.pieces for document in self._documents(piece, left_out)]
        encoded = tokenizer.encode_documents([document.text for document in documents])
        dtype = np.dtype(token_type(tokenizer.vocabulary))
        end, empty = np.array([end_token], dtype), np.zeros(0, dtype)
        splits: dict[Split, SplitPart] = {}
        for split in SPLITS:
            pairs = zip(documents, encoded, strict=True)
            own = [(document, ids) for document, ids in pairs if self.split_of(document.draw) == split]
            runs = [run for document, ids in own for run in ((ids, end) if document.ends else (ids,))]
            splits[split] = SplitPart(
                np.concatenate([empty, *runs]),
                num_documents=sum(document.ends for document, _ in own),
                num_bytes=sum(len(document.text) for document, _ in own),
            )
        return EncodedChunk(splits, left_out)

    def split_of(self, draw: float) -> Split:
        return "held_out" if draw < self.held_out_share else "train"

    def draws(self, chunks: Iterable[Chunk]) -> set[float]:
        return {document.draw for chunk in chunks for piece in chunk.pieces for document in self._documents(piece, [])}

    def _documents(self, piece: Piece, left_out: list[str]) -> Iterator[Document]:
        file = self.files[piece.file]
        if file.has_json_lines:
            yield from self._json_documents(file, piece, left_out)
            return
        content = _content(file, piece)
        problem = _no_text(content) if piece.is_text else "is not UTF-8, or holds NUL"
        is_part = piece.is_text and piece.size < file.size
        if problem is None:
            yield from self._plain_documents(file, piece, content)
        elif file.must_be_text or is_part:
            raise Refusal(file.path, "text", problem, "give text in UTF-8, or leave the file out")
        else:
            left_out.append(f"{file.path}: {problem}")

    def _plain_documents(self, file: TextFile, piece: Piece, content: bytes) -> Iterator[Document]:
        if self.document_end is None:
            if self.cut is not None and piece.first < self.cut:
                before = self.cut - piece.first
                yield Document(content[:before], 1.0, ends=piece.end >= self.cut)
                content = content[before:]
            if content:
                yield Document(content, draw_of(file.name) if self.cut is None else 0.0, piece.ends)
            return
        first = piece.first
        for text in content.split(self.document_end):
            if text:
                yield Document(text, draw_of(file.name, first), ends=True)
            first += len(text) + len(self.document_end)

    def _json_documents(self, file: TextFile, piece: Piece, left_out: list[str]) -> Iterator[Document]:
        first = piece.first
        for line in io.BytesIO(_content(file, piece)):
            try:
                text = self._text(line)
            except ValueError as error:
                if not self.skips_bad_lines:
                    remedy = "mend the line, or leave such lines out with --skip-bad-lines"
                    raise Refusal(file.path, f"line {_line_number(file, first)}", str(error), remedy) from error
                left_out.append(f"{file.path}: the line at byte {first} {error}")
            else:
                if text:
                    yield Document(text, draw_of(file.name, first), ends=True)
            first += len(line)

    def _text(self, line: bytes) -> bytes:
        if not line.strip():
            return b""
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not JSON ({error})") from error
        if not isinstance(document, dict):
            raise ValueError(f"is a {type(document).__name__}, not an object with the key {self.text_key}")
        text = document.get(self.text_key)
        if not isinstance(text, str):
            described = f"as {self.text_key} a {type(text).__name__}" if self.text_key in document else _keys(document)
            raise ValueError(f"has no text ({described}); give the key of the text with --field")
        try:
            content = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("holds half a surrogate pair, which is not a letter") from error
        problem = _no_text(content)
        if problem is not None:
            raise ValueError(problem)
        return content


def draw_of(*name: int | str) -> float:
    """Returns a document's number in [0, 1) by its file and, where that has several documents, its first byte there."""
    return derive_seed("held out", *name) / 2**63


def _keys(document: Mapping[str, Any]) -> str:
    return f"keys {', '.join(list(document)[:8])}" if document else "no keys"


def _content(file: TextFile, piece: Piece) -> bytes:
    if piece.content is not None:
        return piece.content
    try:
        with file.path.open("rb") as stream:
            stream.seek(piece.first)
            content = stream.read(piece.size)
    except OSError as error:
        raise unreadable(file, error) from error
    if len(content) < piece.size:
        raise Refusal(file.path, "text", f"has become shorter than {file.size} bytes", "start anew when it rests")
    return content


def _no_text(content: bytes) -> str | None:
    """The reason why bytes are no text; None if they are text."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte {error.start} is 0x{content[error.start]:02x})"
    return "holds NUL, which no text does" if b"\0" in content else None


def _line_number(file: TextFile, offset: int) -> int:
    """The number of the line that begins at a byte, from 1."""
    number = 1
    with file.path.open("rb") as raw, file.opened(raw) as stream:
        while offset > 0 and (part := stream.read(min(offset, 1 << 20))):
            number += part.count(b"\n")
            offset -= len(part)
    return number
