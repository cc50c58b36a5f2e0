"""The inner loops of the coherent search, compiled by numba. Importing them loads numba, so import them where needed.

numba caches compiled functions beside their source file and compiles them again when that file changes. It does not
notice changes in other files whose functions were inlined, so this module clears the cache when any of them changes.
"""

from hashlib import sha256
from pathlib import Path


def forget_if_outdated(folder: Path) -> None:
    """Delete the cached functions of a folder if any of its sources has changed; call this before they are used."""
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
