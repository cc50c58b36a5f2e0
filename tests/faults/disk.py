"""A small file system in memory."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mounts an empty file system; what is on it stays behind in the folder when it goes.

    Args:
        folder: where; made if missing.
        size: bytes that it holds.

    Raises:
        OSError: it cannot be mounted; the message is that of `mount`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder.with_name(f".{folder.name}.kept")
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder))
    try:
        yield
        _run("cp", "-r", str(folder), str(kept))
    finally:
        _run("umount", "--lazy", str(folder))
        folder.rmdir()
        if kept.exists():
            kept.rename(folder)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
