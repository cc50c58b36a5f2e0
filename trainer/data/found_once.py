"""What the files of a data set say, looked up once for all the ranks of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol


class Lookup(Protocol):
    """Looks something up, or takes it from whoever has."""

    def __call__(self, key: str, find: Callable[[], Any], folder: Path | None, /) -> Any:
        """Returns the JSON value of `find`, or raises its ValueError, wherever it ran; `key` is equal on all ranks."""
        ...


def _alone(_key: str, find: Callable[[], Any], _folder: Path | None, /) -> Any:
    return find()


_lookup: ContextVar[Lookup] = ContextVar("lookup", default=_alone)


def found_once(key: str, find: Callable[[], Any], folder: Path | None = None) -> Any:
    """Looks something up as :func:`looking_up_by` has set; by default here and every time.

    Args:
        key: the same on every rank.
        find: looks at the files; a value that JSON can hold, or a ValueError.
        folder: in which it looks, if it is one: nodes that share it with rank 0 need not look themselves.
    """
    return _lookup.get()(key, find, folder)


@contextmanager
def looking_up_by(lookup: Lookup) -> Iterator[None]:
    """While entered, data sets look at their files through `lookup`."""
    token = _lookup.set(lookup)
    try:
        yield
    finally:
        _lookup.reset(token)
