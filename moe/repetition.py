"""Forward passes that repeat an earlier one whose activations activation checkpointing did not keep.

A repetition computes and sends the same as the first pass, but its tokens must not be counted again. What a part of
the network must find again in it, the part leaves in the notes of the first pass.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

_REPEATS = ContextVar("repeats", default=False)
_NOTES: ContextVar[dict[Any, Any] | None] = ContextVar("notes", default=None)


def repeats() -> bool:
    """Whether this forward pass repeats an earlier one."""
    return _REPEATS.get()


def notes() -> dict[Any, Any] | None:
    """What a first pass leaves for its repetition, to be written in the one and read in the other; None: neither."""
    return _NOTES.get()


def passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a first forward pass, and what surrounds its repetition; both have the same notes."""
    shared: dict[Any, Any] = {}
    return _noted(shared), repetition(shared)


@contextmanager
def repetition(left: dict[Any, Any] | None = None) -> Iterator[None]:
    """A context for code that repeats an earlier forward pass, with the notes that the pass left."""
    outer = _REPEATS.set(True)
    try:
        with _noted({} if left is None else left):
            yield
    finally:
        _REPEATS.reset(outer)


@contextmanager
def _noted(shared: dict[Any, Any]) -> Iterator[None]:
    outer = _NOTES.set(shared)
    try:
        yield
    finally:
        _NOTES.reset(outer)
