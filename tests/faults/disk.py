"""File systems of their own: a small one in memory, and one on a block device whose power can be cut."""

import filecmp
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DYING_S = 30.0
"""For killed processes to close their files, which the system does after they have no command line any more."""


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
    _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder))
    with _kept(folder):
        yield


class BlockDevice:
    """A block device in a file, with a file system that is mounted.

    What the file holds is what has reached the device: not what the system still keeps in memory.

    Args:
        folder: where it is mounted.
        image: the file.
        size: bytes that it holds.
    """

    def __init__(self, folder: Path, image: Path, size: int) -> None:
        self._folder, self._image = folder, image
        with image.open("wb") as file:
            file.truncate(size)
        _run("mkfs.ext4", "-q", str(image))
        self._mount()

    def cut(self) -> Path:
        """A copy of the device as it is now; nothing may write to the file system meanwhile."""
        copies = [self._image.with_suffix(suffix) for suffix in (".cut", ".again")]
        while True:  # until the system has written nothing between the two
            for copy in copies:
                _run("cp", "--sparse=always", str(self._image), str(copy))
            if filecmp.cmp(*copies, shallow=False):
                copies[1].unlink()
                return copies[0]

    def restore(self, copy: Path) -> None:
        """Power is back: the file system is what is on the device. What had files of it open has been killed."""
        until = time.monotonic() + _DYING_S
        while subprocess.run(["umount", str(self._folder)], capture_output=True, check=False).returncode:
            if time.monotonic() > until:
                _run("umount", str(self._folder))
            time.sleep(0.05)
        copy.replace(self._image)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self._folder))


@contextmanager
def block_device(folder: Path, size: int) -> Iterator[BlockDevice]:
    """Mounts an empty block device; what is on it stays behind in the folder when it goes.

    Args:
        folder: where; made if missing.
        size: bytes that it holds.

    Raises:
        OSError: it cannot be made or mounted; the message is that of the program.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = folder.with_name(f".{folder.name}.img")
    try:
        device = BlockDevice(folder, image, size)
        with _kept(folder):
            (folder / "lost+found").rmdir()
            yield device
    finally:
        image.unlink(missing_ok=True)


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Unmounts a folder in the end, and leaves there what was on it."""
    kept = folder.with_name(f".{folder.name}.kept")
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
