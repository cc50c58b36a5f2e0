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
    """What is known of a piece.

    Attributes:
        content: its bytes, when they have come.
        start: offset of the first of them.
        left: examples in it that have not been read yet.
        following: the piece that is fetched when this one is first read from; None: it has been, or there is none.
    """

    content: Future[bytes]
    start: int
    left: int
    following: tuple[int, int] | None


class Pieces:
    """Reads examples of remote tars by requests for many of them at once.

    A piece holds the examples of a tar that begin in the same `PIECE_BYTES`. When one is read from for the first time,
    the next one is fetched, since streams run from front to back. A piece is dropped when as many of its examples as a
    run deals out have been read, when a stream has left it behind, or when there are more than all streams need, the
    one that was used longest ago first.
    """

    def __init__(
        self,
        open_tar: Callable[[int], TarFile],
        rows: NDArray[np.void],
        ends: NDArray[np.int64],
        dealt: NDArray[np.bool_],
        *,
        streams: int,
        run_bytes: int,
    ) -> None:
        """Fetches nothing yet.

        Args:
            rows: start and end of each example in its tar.
            ends: number of the first example behind each tar.
            dealt: which examples come in epochs; others are fetched one by one.
            streams: places that are read at side by side.
            run_bytes: of neighbours in a stream that come in any order, about.
        """
        self._open, self._rows, self._ends, self._dealt = open_tar, rows, ends, dealt
        self._behind = -(-run_bytes // PIECE_BYTES) + 2
        self._most = max(streams * (self._behind + 2), THREADS)
        self._kept: OrderedDict[tuple[int, int], _Piece] = OrderedDict()
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tars")

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Reads examples at (number of the tar, id), in that order; several threads may call it.

        Raises:
            Refusal: a tar is gone, or is not what it was.
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
            piece = self._kept.get(key) or self._begin(key)
            if piece.following is not None and piece.following not in self._kept:
                self._begin(piece.following)
            piece.following = None
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

    def _begin(self, key: tuple[int, int]) -> _Piece:
        """Begins to fetch a piece."""
        tar, part = key
        first = int(self._ends[tar - 1]) if tar else 0
        starts = self._rows["start"][first : int(self._ends[tar])]
        begin, end = np.searchsorted(starts, [part * PIECE_BYTES, (part + 1) * PIECE_BYTES]).tolist()
        low, high = int(starts[begin]), int(self._rows["end"][first + end - 1])
        left = int(self._dealt[first + begin : first + end].sum())
        following = (tar, int(starts[end]) // PIECE_BYTES) if end < len(starts) else None
        piece = _Piece(self._threads.submit(self._fetch, tar, low, high), low, left, following)
        self._kept[key] = piece
        self._kept.pop((tar, part - self._behind - 1), None)
        return piece

    def _fetch(self, tar: int, start: int, end: int) -> bytes:
        return self._open(tar).read(start, end)
