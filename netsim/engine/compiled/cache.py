"""Keeps numba from running outdated code.

numba caches compiled functions beside their source file and compiles them again when that file changes. It does not
notice changes in other files whose functions were inlined.
"""

from functools import cache
from hashlib import sha256
from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
_SOURCES = (
    *("engine/**/*.py", "congestion/*.py", "transport/*.py", "workload/tasks.py"),
    *("bound.py", "draws.py", "passages.py", "units.py"),
)


def forget_if_outdated(folder: Path) -> None:
    """Removes the cached functions of a folder before they are compiled, if any source of theirs has changed."""
    kept = folder / "__pycache__"
    stamp = kept / "compiled_from.sha256"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == _digest():
        return
    try:
        kept.mkdir(exist_ok=True)
        for file in [*kept.glob("*.nbi"), *kept.glob("*.nbc")]:
            file.unlink(missing_ok=True)
        stamp.write_text(_digest(), encoding="ascii")
    except OSError:
        return


def is_kept(folder: Path) -> bool:
    """Whether compiled functions are cached for a folder, so that its first use does not compile."""
    return any((folder / "__pycache__").glob("*.nbi"))


@cache
def _digest() -> str:
    sources = sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern))
    return sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
