"""Forward passes that repeat an earlier one whose activations activation checkpointing did not keep.

A repetition computes and sends the same as the first pass, but its tokens must not be counted again.
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
    """A context for code that repeats an earlier forward pass."""
    outer = _REPEATS.set(True)
    try:
        yield
    finally:
        _REPEATS.reset(outer)
