"""Tar files by their names: patterns spelled out, local files and those that fsspec reaches."""

import os
import posixpath
import re
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Protocol, TypeVar

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
    """Whether a request costs microseconds, not a journey over a network."""

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
            raise Refusal(url, "tar", "is served by something that does not tell its size", "use another server")
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
    try:
        return LocalTar(path)
    except OSError as error:
        raise Refusal(url, "tar", f"cannot be read ({error.strerror})", "bring it back") from error


def local_path(url: str) -> str | None:
    """The path of what lies in a file system of this machine; None: it lies elsewhere."""
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
    found = [url for part in parts for expanded in expand_braces(part) for url in _listed(expanded)]
    if not found:
        raise ValueError(f"path: {'::'.join(patterns)} names no tar; give a folder of them or a pattern")
    seen: set[str] = set()
    for url in found:
        if url in seen:
            raise ValueError(f"path: {url} is named twice; name each tar once")
        seen.add(url)
    return found


def names_of(urls: Sequence[str]) -> list[str]:
    """What tells tars apart wherever they lie: their paths below the folder that holds them all."""
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
    """What stands between the cuts of a pair of braces, or what its range counts; nothing where it is no choice."""
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
    """The tars in a folder, those that a pattern fits, or the one that is named."""
    pattern = any(letter in posixpath.basename(url) for letter in "*?[")
    if not pattern and url.endswith(".tar"):
        return [url]
    system, path = _system(url)
    try:
        if pattern:
            found = system.glob(path)
        elif system.isdir(path):
            found = [name for name in system.ls(path, detail=False) if str(name).endswith(".tar")]
        else:
            return [url]
    except Exception as error:  # each protocol has errors of its own
        problem = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"path: {url} cannot be listed ({problem}); spell it out with braces") from error
    folder = posixpath.dirname(url) if pattern else url.rstrip("/")
    names = sorted(posixpath.basename(str(name).rstrip("/")) for name in found)
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
