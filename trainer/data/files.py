"""Files of a data set: facts looked up once for all the ranks of a run, and digests of their content."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from netsim.foundation.files import files_digest
from netsim.foundation.refusal import Refusal

Lookup = Callable[[str, Callable[[], Any], Path | None], Any]
"""Calls `find` on one rank; takes the arguments of :func:`found_once`, and returns or raises what `find` does."""


def _alone(_key: str, find: Callable[[], Any], _folder: Path | None, /) -> Any:
    return find()


_lookup: ContextVar[Lookup] = ContextVar("lookup", default=_alone)


def found_once(key: str, find: Callable[[], Any], folder: Path | None = None) -> Any:
    """Returns the JSON value of `find`, or raises its ValueError, by the lookup that :func:`looking_up_by` has set.

    `key` is the same on every rank. `find` reads `folder`; a node that shares this folder with rank 0 need not call it.
    """
    return _lookup.get()(key, find, folder)


def facts_of(key: str, examine: Callable[[], Any]) -> Any:
    """Facts about the files at a section's path, looked up once; raises ValueError about the path."""
    try:
        return found_once(key, examine)
    except Refusal as error:
        raise ValueError(f"path: {error}") from error


def text_lines(file: Path, remedy: str = "correct data.path") -> list[str]:
    """Lines of a text in UTF-8; refuses one that cannot be read."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise Refusal(file, "file", f"cannot be read ({reason})", remedy) from None


@contextmanager
def looking_up_by(lookup: Lookup) -> Iterator[None]:
    """While entered, data sets examine their files through `lookup`."""
    token = _lookup.set(lookup)
    try:
        yield
    finally:
        _lookup.reset(token)


FILES = 1024
"""Most files of a data set that are sampled."""
SAMPLE_BYTES = 1 << 26
"""Most bytes that are read of all sampled files; a file no larger than its equal share is read whole."""
BLOCK_BYTES = 1 << 14
GROUPS = 4096
"""Most digests of whole files of a data set; with more files, consecutive ones share a digest."""
_THREADS = 16


@dataclass(frozen=True)
class DataFiles:
    """Files that examples are read from; `names` are paths in `folder`, in an order that depends on the names alone."""

    folder: Path
    names: Sequence[str]

    def sampled(self, key: int) -> list[str]:
        """Returns the names of the files to sample, in their order: all, or, of many, `FILES` that `key` draws."""
        if len(self.names) <= FILES:
            return [*self.names]
        return [self.names[number] for number in sorted(Random(key).sample(range(len(self.names)), FILES))]

    def sample(self, key: int) -> list[str]:
        """Returns a line for each sampled file: name, length, digest of blocks that `key` draws (small files: all)."""
        names = self.sampled(key)
        share = self.share_bytes(key)
        with ThreadPoolExecutor(_THREADS) as threads:
            return [*threads.map(lambda name: f"{name} {_sample(self.folder / name, share, key)}", names)]

    def share_bytes(self, key: int) -> int:
        """Returns the length in bytes up to which a sampled file is read whole."""
        return SAMPLE_BYTES // max(1, len(self.sampled(key)))

    @property
    def groups(self) -> list[Sequence[str]]:
        """The names in the order of the files, in no more than `GROUPS` groups."""
        length = max(1, -(-len(self.names) // GROUPS))
        return [self.names[first : first + length] for first in range(0, len(self.names), length)]

    def whole(self, group: Sequence[str]) -> str:
        """Digest of everything in some files; raises OSError."""
        return files_digest(self.folder / name for name in group)[:16]


def _sample(path: Path, share: int, key: int) -> str:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size <= share:
                return f"{size} {hashlib.sha256(file.read()).hexdigest()[:16]}"
            last = size // BLOCK_BYTES  # the block that may be shorter
            drawn = Random(f"{key}/{path.name}").sample(range(1, last), max(0, share // BLOCK_BYTES - 2))
            digest = hashlib.sha256()
            for block in (0, *sorted(drawn), last):
                file.seek(min(block * BLOCK_BYTES, size - BLOCK_BYTES))
                digest.update(file.read(BLOCK_BYTES))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return f"{size} {digest.hexdigest()[:16]}"
