"""Bytes of remote tars: fetched a large piece at a time, from front to back, and dropped when they have been used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from trainer.data.tar.files import TarFile

PIECE_BYTES = 4 << 20
"""Of one request: at least this where a tar goes on, so that what a journey costs is small beside it."""
THREADS = 16
"""Requests at once."""


@dataclass
class _Piece:
    content: Future[bytes]
    start: int
    left: int


class Pieces:
    """Reads examples of remote tars by requests for many of them at once.

    A piece holds the examples of a tar that begin in the same `PIECE_BYTES`. When one is asked for the first time, the
    next one is fetched as well, since streams run from front to back. A piece is dropped when as many of its examples
    as a run deals out have been read, when a stream has left it `behind`, or when more than `most` are kept, the one
    that was used longest ago first.
    """

    def __init__(
        self,
        open_tar: Callable[[int], TarFile],
        rows: NDArray[np.void],
        ends: NDArray[np.int64],
        dealt: NDArray[np.bool_],
        *,
        behind: int,
        most: int,
    ) -> None:
        """Prepares to read; nothing is fetched yet.

        Args:
            open_tar: gives the tar of a number.
            rows: start and end of each example in its tar.
            ends: number of the first example behind each tar.
            dealt: which examples come in epochs; others are fetched one by one.
            behind: how many pieces before the newest one of a stream it may still come back to.
            most: pieces that are kept at most.
        """
        self._open, self._rows, self._ends, self._dealt = open_tar, rows, ends, dealt
        self._behind, self._most = behind, most
        self._kept: OrderedDict[tuple[int, int], _Piece] = OrderedDict()
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tars")

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Reads examples; several threads may call it.

        Args:
            places: number of the tar and id of each example.

        Returns:
            The bytes of each, in that order.

        Raises:
            FileError: a tar is gone, or is not what it was.
            Unreachable: the network failed several times.
        """
        coming = [self._asked(tar, number) for tar, number in places]
        return [self._cut(*asked) for asked in coming]

    def _asked(self, tar: int, number: int) -> tuple[int, Future[bytes], int]:
        start, end = int(self._rows["start"][number]), int(self._rows["end"][number])
        if not self._dealt[number]:
            return number, self._threads.submit(self._fetch, tar, start, end), start
        key = tar, start // PIECE_BYTES
        with self._lock:
            piece = self._kept.get(key)
            if piece is None:
                piece, following = self._begin(key)
                if following is not None and following not in self._kept:
                    self._begin(following)
            self._kept.move_to_end(key)
            piece.left -= 1
            if piece.left == 0:
                del self._kept[key]
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return number, piece.content, piece.start

    def _cut(self, number: int, content: Future[bytes], start: int) -> bytes:
        begin, end = int(self._rows["start"][number]), int(self._rows["end"][number])
        return content.result()[begin - start : end - start]

    def _begin(self, key: tuple[int, int]) -> tuple[_Piece, tuple[int, int] | None]:
        """Begins to fetch a piece; also says which follows it in its tar."""
        tar, part = key
        first = int(self._ends[tar - 1]) if tar else 0
        starts = self._rows["start"][first : int(self._ends[tar])]
        begin, end = np.searchsorted(starts, [part * PIECE_BYTES, (part + 1) * PIECE_BYTES]).tolist()
        low, high = int(starts[begin]), int(self._rows["end"][first + end - 1])
        left = int(self._dealt[first + begin : first + end].sum())
        piece = _Piece(self._threads.submit(self._fetch, tar, low, high), low, left)
        self._kept[key] = piece
        self._kept.pop((tar, part - self._behind - 1), None)
        return piece, (tar, int(starts[end]) // PIECE_BYTES) if end < len(starts) else None

    def _fetch(self, tar: int, start: int, end: int) -> bytes:
        return self._open(tar).read(start, end)
