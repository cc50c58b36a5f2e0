"""Compiled functions without their compilation, which takes longer than a small run does.

The results are the same to the last bit: Python computes with the same numbers of 64 bits, only more slowly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FunctionType
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

_interpreting: ContextVar[bool] = ContextVar("interpreting", default=False)
_known: dict[Any, FunctionType] = {}


@contextmanager
def interpreting() -> Iterator[None]:
    """Nothing is compiled in this block; whole numbers wrap as they do in compiled code, without a warning."""
    token = _interpreting.set(True)
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        _interpreting.reset(token)


def ready(function: Any) -> Any:
    """A compiled function as Python calls it: in a block of `interpreting` the one that numba would compile."""
    return _interpreted(function) if _interpreting.get() else function


def records(array: np.ndarray) -> np.ndarray:
    """The same memory; in a block of `interpreting` the fields of records are attributes, as in compiled code."""
    if array.dtype.names and _interpreting.get():
        return array.view(np.dtype((np.record, array.dtype)))
    return array


def _interpreted(function: Any) -> FunctionType:
    """What numba would compile; nor are the functions that it calls compiled."""
    if function not in _known:
        plain = function.py_func
        names = dict(plain.__globals__)
        _known[function] = FunctionType(plain.__code__, names, plain.__name__, plain.__defaults__)
        called = {name: names[name] for name in plain.__code__.co_names if isinstance(names.get(name), Dispatcher)}
        names.update((name, _interpreted(value)) for name, value in called.items())
    return _known[function]
