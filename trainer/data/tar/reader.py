"""Examples of indexed tars by their numbers."""

from __future__ import annotations

import functools
import resource
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.refusal import Refusal
from trainer.data.tar.examples import walk_examples
from trainer.data.tar.files import TarFile, local_path, open_tar
from trainer.data.tar.index import TarIndex, check_examples, open_examples
from trainer.data.tar.members import TarDamage
from trainer.data.tar.pieces import PIECE_BYTES, THREADS, Pieces

REMEDY = "bring it back, or make the index again and leave data.digest out to start another run"


class Example(NamedTuple):
    """Contents by extension of an example in a tar, and the key that the names of its members share."""

    key: str
    members: Mapping[str, memoryview]


class TarReader:
    """Reads examples where an index says that they lie, and refuses tars that are not those of the index.

    Of a local tar, each example is one read, and the system is told to fetch what follows. Of a remote tar, pieces are
    fetched that hold many; see :class:`Pieces`.

    Attributes:
        labels: int32 [N] class of each example; -1: it tells none.
        ends: int64 [T] number of the first example behind each tar.
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
        """Maps the index into memory; no tar is opened yet.

        Args:
            urls: of the tars, in the order of the index.
            dealt: [N] which examples come in epochs.
            streams: places that an epoch is read at side by side.
            shuffle: neighbours that come in any order.
        """
        self._index, self._urls, self._rows = index, urls, open_examples(folder, index)
        self.labels: NDArray[np.int32] = self._rows["label"]
        self.ends = np.cumsum([tar.num_examples for tar in index.tars])
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Streams come back to the same tars: those that are open are kept, as far as half of the limit goes.
        self._open = functools.lru_cache(maxsize=max(limit // 2, 1))(self._opened)
        run_bytes = shuffle * sum(tar.size for tar in index.tars) // index.num_examples
        self._pieces = Pieces(self._open, self._rows, self.ends, dealt, streams=streams, run_bytes=run_bytes)
        self._told: set[tuple[int, int]] = set()

    def read(self, numbers: Sequence[int]) -> tuple[dict[int, Example], dict[int, str]]:
        """Sound examples by id, and the place and fault of the others; several threads may call it.

        Raises:
            Refusal: a tar is gone, or is not what the index says.
            Unreachable: the network failed several times.
        """
        places = [(int(np.searchsorted(self.ends, number, side="right")), number) for number in numbers]
        remote = [place for place in places if local_path(self._urls[place[0]]) is None]
        contents = dict(zip(remote, self._pieces.read(remote), strict=True)) if remote else {}
        examples: dict[int, Example] = {}
        reasons: dict[int, str] = {}
        for tar, number in places:
            try:
                content = contents[tar, number] if (tar, number) in contents else self._local(tar, number)
                examples[number] = self._parsed(tar, number, content)
            except TarDamage as error:
                reasons[number] = f"{self._urls[tar]}: example {self._place(tar, number)}: {error}"
            except OSError as error:
                reasons[number] = f"{self._urls[tar]}: example {self._place(tar, number)}: {error.strerror}"
        return examples, reasons

    def where(self, number: int) -> str:
        """The tar that an example lies in."""
        return self._urls[int(np.searchsorted(self.ends, number, side="right"))]

    def _place(self, tar: int, number: int) -> int:
        return number - (int(self.ends[tar - 1]) if tar else 0)

    def _opened(self, tar: int) -> TarFile:
        opened = open_tar(self._urls[tar])
        if opened.size != self._index.tars[tar].size:
            problem = f"has {opened.size:,} bytes but the index says {self._index.tars[tar].size:,}"
            raise Refusal(self._urls[tar], "size", problem, REMEDY)
        return opened

    def _local(self, tar: int, number: int) -> bytes:
        start, end = int(self._rows["start"][number]), int(self._rows["end"][number])
        file, part = self._open(tar), start // PIECE_BYTES
        if (tar, part) not in self._told:
            if len(self._told) > 4 * THREADS * THREADS:
                self._told.clear()
            self._told.add((tar, part))
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
        for url, entry, size in zip(urls, index.tars, threads.map(_size, urls), strict=True):
            if size != entry.size:
                raise Refusal(url, "size", f"has {size:,} bytes but the index says {entry.size:,}", REMEDY)


def _size(url: str) -> int:
    return open_tar(url).size
