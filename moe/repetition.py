"""Forward passes that repeat an earlier one whose activations activation checkpointing did not keep.

A repetition computes and sends the same as the first pass, but its tokens must not be counted again. A module stores
values that its repetition needs in the notes, a dictionary that the two passes share.
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
    """Returns the dictionary that a first pass writes and its repetition reads; None outside of both."""
    return _NOTES.get()


def passes() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Returns the contexts of a first forward pass and of its repetition, which share their notes."""
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
