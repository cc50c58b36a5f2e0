"""How the event engine's functions are compiled.

They allocate nothing, so that no array's references need be counted, and are all parts of one loop, so that nothing is
handed from one to another: either would take most of the time. What could divide by zero does not come from users.
"""

from collections.abc import Callable
from typing import Any

from numba import njit

_OPTIONS: dict[str, Any] = {"cache": True, "_nrt": False, "error_model": "numpy", "forceinline": True}

called: Callable[..., Any] = njit(**_OPTIONS)
"""Decorator of functions that Python calls."""
compiled: Callable[..., Any] = njit(**_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of all others."""
