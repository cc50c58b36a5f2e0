"""How the event engine's functions are compiled.

They allocate nothing, so that no array's references need be counted, and all become part of the one that Python calls,
so that nothing is handed from one to another: either would take most of the time. What could divide by zero does not
come from users.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

from netsim.engine.compiled.cache import forget_if_outdated

_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy", "forceinline": True}

forget_if_outdated(Path(__file__).parent)

_compile: Callable[..., Any] = njit
called = _compile(**_OPTIONS, cache=True)
"""Decorator of the function that Python calls."""
compiled = _compile(**_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of all others."""
