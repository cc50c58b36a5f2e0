"""Reads a profile event by event, so that a file of gigabytes takes only the memory of the events that are kept."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from netsim.foundation.refusal import Refusal

_PIECE = 1 << 20
_LARGEST = 1 << 26
"""Most characters read at a time, and most of a single event or header entry."""
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(parse_float=Decimal)
"""Decodes times as decimals, since microseconds since 1970 with three places do not fit into a float."""
_REMEDY = "profile the rank again, with torch.profiler's export_chrome_trace"
EVENTS = "traceEvents"


def read_stream(path: Path, keep: Callable[[int, dict[str, Any]], None]) -> dict[str, Any]:
    """Reads a profile, ``.json`` or ``.json.gz``.

    Args:
        path: The file.
        keep: Takes the number of each event and the event, in the order of the file.

    Returns:
        All other entries of the file; under ``traceEvents`` whether there are events.
    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
            return _entries(path, _Pieces(file), keep)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Refusal(path, "file", "is not compressed by gzip, or cut off", _REMEDY) from None
    except OSError as error:
        raise Refusal(path, "file", f"cannot be read ({error.strerror})", "give files that can be read") from None
    except Refusal:
        raise
    except (ValueError, RecursionError):
        raise Refusal(path, "file", "is not JSON, or cut off", _REMEDY) from None


def _entries(path: Path, pieces: "_Pieces", keep: Callable[[int, dict[str, Any]], None]) -> dict[str, Any]:
    if pieces.peek() not in "{[":
        raise ValueError
    if pieces.peek() == "[":
        raise Refusal(path, "file", "is not a profile of torch.profiler", "write it with export_chrome_trace")
    content: dict[str, Any] = {}
    for _ in pieces.parts("{}"):
        key = pieces.value()
        pieces.take(":")
        if key != EVENTS:
            content[str(key)] = pieces.value()
            continue
        if pieces.peek() != "[":
            raise Refusal(path, EVENTS, "is missing", "write the profile with export_chrome_trace")
        content[EVENTS] = True
        for place in pieces.parts("[]"):
            event = pieces.value()
            if isinstance(event, dict):
                keep(place, event)
    if pieces.peek():
        raise ValueError
    return content


class _Pieces:
    """Reads JSON piece by piece and holds only the present value; ValueError if the text is no JSON."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._text, self._at = file, "", 0

    def peek(self) -> str:
        """Returns the next character that is no space, without taking it; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # pyright: ignore[reportOptionalMemberAccess]
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def take(self, among: str) -> str:
        """Takes the next character; ValueError if it is not among these."""
        character = self.peek()
        if not character or character not in among:
            raise ValueError
        self._at += 1
        return character

    def parts(self, ends: str) -> Iterator[int]:
        """Yields the number of each part of a list or mapping between `ends`; the caller reads the part."""
        self.take(ends[0])
        number = 0
        if self.peek() == ends[1]:
            self.take(ends[1])
            return
        while True:
            yield number
            number += 1
            if self.take("," + ends[1]) == ends[1]:
                return

    def value(self) -> Any:
        """Reads the next value."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except ValueError:
                end = len(self._text)  # perhaps cut by the piece
            else:
                if end < len(self._text):
                    self._at = end
                    return value
            if len(self._text) - self._at > _LARGEST or not self._read():
                raise ValueError

    def _read(self) -> bool:
        piece = self._file.read(_PIECE)
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)
