"""Reads arrays from a user's file, and refuses damaged, pickled or oversized archives."""

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING

from netsim.foundation.files import reading
from netsim.foundation.refusal import Refusal

if TYPE_CHECKING:
    from numpy.lib.npyio import NpzFile
    from numpy.typing import NDArray

UNREADABLE = (
    *(ValueError, TypeError, OverflowError, KeyError, IndexError, EOFError, MemoryError),
    *(SyntaxError, TokenError),  # of a header, which numpy reads as Python
    *(RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error),  # of an archive
)
"""Exceptions of numpy and zipfile for files without plain arrays: damaged, pickled, or larger than any memory."""


@contextmanager
def quietly() -> Iterator[None]:
    """Suppresses numpy's warning about headers that look as if Python 2 had written them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def oversize(archive: zipfile.ZipFile) -> str | None:
    """Why the members of an archive, of which only the directory is read, do not fit into memory; None if they do."""
    unpacked, memory = sum(member.file_size for member in archive.infolist()), _memory_bytes()
    if unpacked <= memory:
        return None
    return f"unpacks to {unpacked / 1e9:,.1f} GB, more than the {memory / 1e9:,.1f} GB of memory"


def read_archive(
    path: Path, required: Sequence[str], optional: Collection[str] | None = None, *, remedy: str, single: str
) -> "dict[str, NDArray]":
    """Reads the arrays of a .npz archive by name.

    Args:
        path: The file.
        required: Arrays that it must have.
        optional: Arrays that are read too where it has them, and beside which it may have no others; None: others are
            left alone.
        remedy: Advice where the file is no such archive, or incomplete.
        single: Advice where it holds a single array.

    Raises:
        Refusal: The file is damaged, pickled or larger than memory, lacks arrays or has others.
    """
    import numpy as np

    with reading(path, "check the path"):
        stream = path.open("rb")
    with stream, quietly():
        try:
            archive = np.load(stream, allow_pickle=False)
        except (OSError, *UNREADABLE) as error:
            problem = "is not a complete .npz archive (truncated or another format)"
            raise Refusal(path, "file", problem, remedy) from error
        if isinstance(archive, np.ndarray):
            raise Refusal(path, "file", "holds a single array", single)
        problem = oversize(archive.zip)
        if problem is not None:
            raise Refusal(path, "file", problem, "record fewer steps, or read it on a machine with more memory")
        for name in required:
            if name not in archive.files:
                raise Refusal(path, name, "is missing", remedy)
        known = [*required, *(optional or ())]
        for name in archive.files if optional is not None else ():
            if name not in known:
                raise Refusal(path, name, "is not an array of this format", f"keep only {', '.join(known)}")
        return {name: _member(path, archive, name) for name in archive.files if name in known}


def _member(path: Path, archive: "NpzFile", name: str) -> "NDArray":
    try:
        member = archive[name]
    except (OSError, *UNREADABLE) as error:
        remedy = "save rectangular arrays of numbers, no objects"
        raise Refusal(path, name, "is pickled, ragged or damaged", remedy) from error
    if not hasattr(member, "dtype"):
        raise Refusal(path, name, "is not an array", "save it by numpy.savez")
    return member


def _memory_bytes() -> int:
    """Memory of this machine in bytes, or the limit of its container if that is smaller."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # there is no such file, or no limit ("max")
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return memory
