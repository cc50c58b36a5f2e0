"""How the event engine's functions are compiled.

They allocate nothing, so that numba counts no references to arrays, and all are inlined into the one that Python calls,
so that no arguments are passed between them: either would take most of the time. Divisors never come from users, so
division by zero is not checked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

from netsim.engine.compiled.cache import forget_if_outdated

_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy", "forceinline": True}

forget_if_outdated(Path(__file__).parent)

_compile: Callable[..., Any] = njit
called = _compile(**_OPTIONS, cache=True, nogil=True)
"""Decorator of the function that Python calls; other threads go on meanwhile."""
compiled = _compile(**_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of all others."""
