"""How the event engine's functions are compiled.

They allocate nothing, so that no array's references need be counted: counting them would take most of the time. What
could divide by zero does not come from users.
"""

from numba import njit

compiled = njit(cache=True, _nrt=False, forceinline=True, error_model="numpy")
"""Decorator of a function that neither allocates nor keeps arrays."""
