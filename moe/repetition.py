"""Forward passes that repeat an earlier one, because activation checkpointing kept nothing of it.

A repetition computes the same and sends the same, but what a layer counts, it has counted already.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_REPEATS = ContextVar("repeats", default=False)


def repeats() -> bool:
    """Whether this forward pass repeats an earlier one."""
    return _REPEATS.get()


@contextmanager
def repetition() -> Iterator[None]:
    """Marks what runs inside as repeating an earlier forward pass."""
    outer = _REPEATS.set(True)
    try:
        yield
    finally:
        _REPEATS.reset(outer)
