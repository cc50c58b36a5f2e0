"""Examples read where an index says that they are; of remote tars in pieces."""

import functools
import resource
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.refusal import Refusal
from trainer.data.tar.files import TarFile, local_path, open_tar
from trainer.data.tar.index import TarEntry, TarIndex, check_examples, open_examples
from trainer.data.tar.members import TarDamage, walk_examples

PIECE_BYTES = 4 << 20
"""Of one request: at least this where a tar goes on, so that what a journey costs is small beside it."""
THREADS = 16
"""Requests at once."""


@dataclass
class _Piece:
    """Bytes of a piece from offset `start` on, number of its examples still to read, and the piece to fetch next."""

    content: Future[bytes]
    start: int
    left: int
    following: tuple[int, int] | None


class Pieces:
    """Reads examples of remote tars by requests for many of them at once.

    A piece holds the examples that begin in the same `PIECE_BYTES`; its first reading fetches the next one. It is
    dropped when as many examples as a run deals out have been read, when a stream has left it behind, or, least
    recently used first, when there are more than all streams need.
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
            rows: start and end of each example in its tar; `ends` are numbers of the first example behind each tar.
            dealt: which examples come in epochs; others are fetched one by one.
            streams: places that are read at side by side.
            run_bytes: approximate bytes of neighbours in a stream that come in any order.
        """
        self._open, self._rows, self._ends, self._dealt = open_tar, rows, ends, dealt
        self._behind = -(-run_bytes // PIECE_BYTES) + 2
        self._most = max(streams * (self._behind + 2), THREADS)
        self._kept: OrderedDict[tuple[int, int], _Piece] = OrderedDict()
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tars")

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Reads examples at (number of the tar, id), in that order; from several threads; Refusal or Unreachable."""
        requests = [self._requested(tar, number) for tar, number in places]
        return [content.result()[begin : begin + size] for content, begin, size in requests]

    def _requested(self, tar: int, number: int) -> tuple[Future[bytes], int, int]:
        """What will have the example, and its offset and length there."""
        start, end = int(self._rows["start"][number]), int(self._rows["end"][number])
        if not self._dealt[number]:
            return self._threads.submit(self._fetch, tar, start, end), 0, end - start
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
        return piece.content, start - piece.start, end - start

    def _begin(self, key: tuple[int, int]) -> _Piece:
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


REMEDY = "bring it back, or make the index again and leave data.digest out to start another run"


class Example(NamedTuple):
    """Contents by extension of an example in a tar, and the key that the names of its members share."""

    key: str
    members: Mapping[str, memoryview]


class TarReader:
    """Reads examples at the places of an index, and refuses tars that are not those of the index.

    `labels` are int32 [N] classes, -1 if absent, `ends` int64 [T] numbers of the first example behind each tar.
    """

    def __init__(
        self,
        folder: Path,
        index: TarIndex,
        urls: Sequence[str],
        dealt: NDArray[np.bool_],
        *,
        streams: int,
        shuffle: int,
    ) -> None:
        """Maps the index into memory and opens no tar yet; `urls` are in its order, `dealt` [N] as of :class:`Pieces`.

        `streams` places are read side by side, at each of which `shuffle` neighbours come in any order.
        """
        self._index, self._urls, self._rows = index, urls, open_examples(folder, index)
        self.labels: NDArray[np.int32] = self._rows["label"]
        self.ends = np.cumsum([tar.num_examples for tar in index.tars])
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Streams come back to the same tars: those that are open are kept, as far as half of the limit goes.
        self._open = functools.lru_cache(maxsize=max(limit // 2, 1))(self._opened)
        run_bytes = shuffle * sum(tar.size for tar in index.tars) // index.num_examples
        self._pieces = Pieces(self._open, self._rows, self.ends, dealt, streams=streams, run_bytes=run_bytes)
        self._expected: set[tuple[int, int]] = set()

    def read(self, numbers: Sequence[int]) -> tuple[dict[int, Example], dict[int, str]]:
        """Sound examples by id, place and fault of the others; from several threads; Refusal or Unreachable."""
        places = [(int(np.searchsorted(self.ends, number, side="right")), number) for number in numbers]
        remote = [place for place in places if local_path(self._urls[place[0]]) is None]
        contents = dict(zip(remote, self._pieces.read(remote), strict=True)) if remote else {}
        examples: dict[int, Example] = {}
        reasons: dict[int, str] = {}
        for tar, number in places:
            try:
                content = contents[tar, number] if (tar, number) in contents else self._local(tar, number)
                examples[number] = self._parsed(tar, number, content)
            except (TarDamage, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                reasons[number] = f"{self._urls[tar]}: example {self._place(tar, number)}: {reason}"
        return examples, reasons

    def where(self, number: int) -> str:
        return self._urls[int(np.searchsorted(self.ends, number, side="right"))]

    def _place(self, tar: int, number: int) -> int:
        return number - (int(self.ends[tar - 1]) if tar else 0)

    def _opened(self, tar: int) -> TarFile:
        return open_indexed(self._urls[tar], self._index.tars[tar])

    def _local(self, tar: int, number: int) -> bytes:
        start, end = int(self._rows["start"][number]), int(self._rows["end"][number])
        file, part = self._open(tar), start // PIECE_BYTES
        if (tar, part) not in self._expected:
            if len(self._expected) > 4 * THREADS * THREADS:
                self._expected.clear()
            self._expected.add((tar, part))
            file.expect(start, start + 2 * PIECE_BYTES)
        return file.read(start, end)

    def _parsed(self, tar: int, number: int, content: bytes) -> Example:
        view = memoryview(content)

        def read(start: int, end: int) -> memoryview:
            return view[start:end]

        if len(content) == self._rows["end"][number] - self._rows["start"][number]:
            found = list(walk_examples(read, 0, len(content), verify=False))
            if len(found) == 1 and found[0].check == self._rows["check"][number]:
                places = found[0].members
                return Example(found[0].key, {name: view[at : at + size] for name, (at, size) in places.items()})
        for _ in walk_examples(read, 0, len(content)):  # raises where a header is damaged
            pass
        problem = f"has other headers than the index says at example {self._place(tar, number)}"
        raise Refusal(self._urls[tar], "check", problem, REMEDY)


def check_tars(folder: Path, index: TarIndex, urls: Sequence[str]) -> None:
    """Refuses tars whose sizes, or an index whose rows, are not as the index says; raises Unreachable, too."""
    check_examples(folder, index)
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda url, entry: open_indexed(url, entry).size, urls, index.tars))


def open_indexed(url: str, entry: TarEntry) -> TarFile:
    """Opens a tar of an index; refuses one of another size."""
    tar = open_tar(url)
    if tar.size != entry.size:
        raise Refusal(url, "size", f"has {tar.size:,} bytes but the index says {entry.size:,}", REMEDY)
    return tar
