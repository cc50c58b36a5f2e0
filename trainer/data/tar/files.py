"""Tar files by name: expanded patterns, local files, and files that fsspec reaches, which are read in pieces."""

import os
import posixpath
import re
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal, Unreachable

ATTEMPTS = 5
FIRST_PAUSE_S = 0.2
"""Before a request that failed is made again; doubles each time."""

_RANGE = re.compile(r"(\d+)\.\.(\d+)")

Found = TypeVar("Found")


class TarFile(Protocol):
    """A tar whose bytes can be read anywhere, from several threads."""

    size: int
    """Bytes."""
    local: bool
    """Whether a request takes microseconds instead of a network round trip."""

    def read(self, start: int, end: int) -> bytes:
        """Returns the bytes from one offset up to another; fewer where the file ends before."""
        ...

    def expect(self, start: int, end: int) -> None:
        """Announces bytes that will be read soon; the default does nothing."""


class LocalTar(TarFile):
    """A tar in a file system of this machine."""

    local = True

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._file)  # closed when nobody reads it any more
        self.size = os.fstat(self._file).st_size

    def read(self, start: int, end: int) -> bytes:
        return os.pread(self._file, end - start, start)

    def expect(self, start: int, end: int) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._file, start, end - start, os.POSIX_FADV_WILLNEED)


class RemoteTar(TarFile):
    """A tar that a file system of fsspec reads by ranges."""

    local = False

    def __init__(self, system: Any, path: str, url: str) -> None:
        self._system, self._path, self._url = system, path, url
        size = patiently(url, lambda: system.info(path).get("size"))
        if size is None:
            raise Refusal(url, "tar", "is on a server that does not report its size", "use another server")
        self.size = int(size)

    def read(self, start: int, end: int) -> bytes:
        end = min(end, self.size)
        if end <= start:
            return b""
        content = patiently(self._url, lambda: self._system.cat_file(self._path, start=start, end=end))
        if len(content) != end - start:
            problem = f"gives {len(content):,} bytes where {end - start:,} were asked for"
            raise Refusal(self._url, "tar", problem, "use a server that knows ranges of bytes")
        return content


def open_tar(url: str) -> TarFile:
    """Opens a tar at a path or at a URL of a protocol that fsspec knows; raises Refusal and Unreachable."""
    path = local_path(url)
    if path is None:
        return RemoteTar(*_system(url), url)
    with reading(url, "bring it back", "tar"):
        return LocalTar(path)


def local_path(url: str) -> str | None:
    """The path of a file on this machine; None if it is elsewhere."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    return rest if scheme in ("file", "local") else None


def find_tars(patterns: Sequence[str]) -> list[str]:
    """Lists tars in the order of the patterns and, of one pattern, of names; ValueError without any, or on one twice.

    Patterns are paths or URLs; braces stand for several (``train-{000..146}.tar``, ``{train,more}.tar``), ``*``, ``?``
    and ``[...]`` for what is there, and a folder for its tars. ``::`` joins several in one.
    """
    parts = [part for pattern in patterns for part in pattern.split("::") if part]
    urls = [url for part in parts for expanded in expand_braces(part) for url in _listed(expanded)]
    if not urls:
        raise ValueError(f"path: {'::'.join(patterns)} names no tar; give a folder of them or a pattern")
    seen: set[str] = set()
    for url in urls:
        if url in seen:
            raise ValueError(f"path: {url} is named twice; name each tar once")
        seen.add(url)
    return urls


def names_of(urls: Sequence[str]) -> list[str]:
    """Returns distinct names of tars, independent of their location: the paths below their common folder."""
    parts = [url.split("/") for url in urls]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


def expand_braces(pattern: str) -> Iterator[str]:
    """Expands a pattern with braces as bash does: ``{08..11}``, ``{a,b}``, several, and one in another."""
    depth, start, cuts = 0, 0, [0]
    for place, letter in enumerate(pattern):
        if letter == "{":
            depth += 1
            if depth == 1:
                start, cuts = place, [place]
        elif letter == "," and depth == 1:
            cuts.append(place)
        elif letter == "}" and depth > 0:
            depth -= 1
            choices = _choices(pattern, [*cuts, place]) if depth == 0 else []
            if choices:
                rests = list(expand_braces(pattern[place + 1 :]))
                for choice, rest in product((inner for one in choices for inner in expand_braces(one)), rests):
                    yield pattern[:start] + choice + rest
                return
    yield pattern


def patiently(url: str, ask: Callable[[], Found]) -> Found:
    """Repeats a request to a server; Refusal if the file is missing or forbidden, Unreachable without an answer."""
    for attempt in range(ATTEMPTS):
        try:
            return ask()
        except Refusal:
            raise
        except (FileNotFoundError, PermissionError, NotImplementedError) as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise Refusal(url, "tar", f"cannot be read ({problem})", "bring it back, or correct data.path") from error
        except Exception as error:  # each protocol has errors of its own
            if attempt == ATTEMPTS - 1:
                problem = " ".join(str(error).split()) or type(error).__name__
                message = f"{url}: cannot be reached, {ATTEMPTS} times in a row ({type(error).__name__}: {problem})"
                raise Unreachable(f"{message}; start again when it can") from error
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    raise AssertionError


def _choices(pattern: str, cuts: Sequence[int]) -> list[str]:
    """Returns the alternatives in a pair of braces, or the numbers of its range; empty where it holds neither."""
    parts = [pattern[cut + 1 : following] for cut, following in pairwise(cuts)]
    bounds = _RANGE.fullmatch(parts[0])
    if len(parts) > 1 or bounds is None:
        return parts if len(parts) > 1 else []
    first, last = int(bounds[1]), int(bounds[2])
    padded = any(bound != "0" and bound.startswith("0") for bound in bounds.groups())
    width = max(map(len, bounds.groups())) if padded else 0
    step = 1 if first <= last else -1
    return [f"{number:0{width}d}" for number in range(first, last + step, step)]


def _listed(url: str) -> list[str]:
    """Returns the tars in a folder, the tars that match a pattern, or the tar that is named."""
    pattern = any(letter in posixpath.basename(url) for letter in "*?[")
    if not pattern and url.endswith(".tar"):
        return [url]
    system, path = _system(url)
    try:
        if pattern:
            listed = system.glob(path)
        elif system.isdir(path):
            listed = [name for name in system.ls(path, detail=False) if str(name).endswith(".tar")]
        else:
            return [url]
    except Exception as error:  # each protocol has errors of its own
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"path: {url} cannot be listed ({problem}); spell it out with braces") from error
    folder = posixpath.dirname(url) if pattern else url.rstrip("/")
    names = sorted(posixpath.basename(str(name).rstrip("/")) for name in listed)
    return [posixpath.join(folder, name) for name in names]


def _system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # not needed by those who learn from something else

    try:
        return url_to_fs(url)
    except ImportError as error:
        protocol = url.partition("://")[0]
        raise ValueError(f"path: {url}: nothing installed reads {protocol}:// ({error}); pip install it") from error
    except ValueError as error:
        raise ValueError(f"path: {url}: {error}; use a protocol that fsspec knows") from error


PIECE_BYTES = 4 << 20
"""Least bytes of one request within a tar, so that the latency of a request is small beside its transfer."""
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

    A piece holds the examples that begin within the same `PIECE_BYTES`; its first read starts to fetch the next piece.
    A piece is dropped when all its examples that a run deals out have been read, when a stream has passed it, or, least
    recently used first, when there are more pieces than all streams need.
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
            open_tar: opens a tar by its number.
            rows: start and end of each example in its tar.
            ends: for each tar, the number of the first example after it.
            dealt: whether an example belongs to an epoch; others are fetched one by one.
            streams: places that are read side by side.
            run_bytes: at each place, examples within about so many bytes come in any order.
        """
        self._open, self._rows, self._ends, self._dealt = open_tar, rows, ends, dealt
        self._behind = -(-run_bytes // PIECE_BYTES) + 2
        self._most = max(streams * (self._behind + 2), THREADS)
        self._kept: OrderedDict[tuple[int, int], _Piece] = OrderedDict()
        self._lock = Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tars")

    def read(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Reads examples at (tar number, id), in that order; from several threads; raises Refusal or Unreachable."""
        requests = [self._requested(tar, number) for tar, number in places]
        return [content.result()[begin : begin + size] for content, begin, size in requests]

    def _requested(self, tar: int, number: int) -> tuple[Future[bytes], int, int]:
        """Returns the future bytes that contain an example, and its offset and length in them."""
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
