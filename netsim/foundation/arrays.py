"""Reading arrays of a user's file: what it can end in besides the array."""

import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tokenize import TokenError

UNREADABLE = (
    *(ValueError, TypeError, OverflowError, KeyError, IndexError, EOFError, MemoryError),
    *(SyntaxError, TokenError),  # of a header, which numpy reads as Python
    *(RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, struct.error),  # of an archive
)
"""What numpy and zipfile raise over a file that holds no plain array: damaged, pickled, or larger than any memory."""


@contextmanager
def quietly() -> Iterator[None]:
    """Reads without what numpy warns of where a header looks as if Python 2 had written it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def oversize(archive: zipfile.ZipFile) -> str | None:
    """Why the members of an archive, of which only the directory is read, do not fit into memory; None if they do."""
    unpacked, memory = sum(member.file_size for member in archive.infolist()), _memory_bytes()
    if unpacked <= memory:
        return None
    return f"unpacks to {unpacked / 1e9:,.1f} GB, more than the {memory / 1e9:,.1f} GB of memory"


def _memory_bytes() -> int:
    """Memory of this machine, or what its container may have of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # there is no such file, or no limit ("max")
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return memory
