"""How the event engine's functions are compiled.

They allocate nothing, so that no array's references need be counted, and all become part of the one that Python calls,
so that nothing is handed from one to another: either would take most of the time. What could divide by zero does not
come from users.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import njit

_OPTIONS: dict[str, Any] = {"_nrt": False, "error_model": "numpy", "forceinline": True}
_FOLDER = Path(__file__).parent


def forget_if_outdated() -> None:
    """Removes the compiled function that was kept for next time if any of the files that it is made of has changed.

    numba looks only at the file in which it stands.
    """
    sources = sorted([*_FOLDER.glob("*.py"), *(_FOLDER.parent / "compiled").glob("*.py")])
    digest = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    kept = _FOLDER / "__pycache__"
    stamp = kept / "sources.sha256"
    if not kept.is_dir() or (stamp.is_file() and stamp.read_text() == digest):
        return
    try:
        for file in [*kept.glob("*.nbi"), *kept.glob("*.nbc")]:
            file.unlink(missing_ok=True)
        stamp.write_text(digest)
    except PermissionError:
        return


forget_if_outdated()

_compile: Callable[..., Any] = njit
called = _compile(**_OPTIONS, cache=True)
"""Decorator of the function that Python calls."""
compiled = _compile(**_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""Decorator of all others."""
