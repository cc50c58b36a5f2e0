"""The inner loops of the coherent search, compiled by numba. Importing them loads numba: do it where one is called.

numba keeps compiled functions beside their file and makes them anew when that file changes; what it has taken in from
the other files of this folder it does not look at, so what is kept is dropped here when any of them changes.
"""

from hashlib import sha256
from pathlib import Path


def forget_if_outdated(folder: Path) -> None:
    """Drop the compiled functions that are kept for a folder if any of its sources has changed since.

    Args:
        folder: A folder of compiled functions; call this before they are used.
    """
    kept = folder / "__pycache__"
    stamp = kept / "compiled_from.sha256"
    digest = sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="ascii") == digest:
        return
    try:
        kept.mkdir(exist_ok=True)
        for file in [*kept.glob("*.nbi"), *kept.glob("*.nbc")]:
            file.unlink(missing_ok=True)
        stamp.write_text(digest, encoding="ascii")
    except OSError:
        return


forget_if_outdated(Path(__file__).parent)
