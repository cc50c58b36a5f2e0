"""Rank 0 reads a data set's files and sends its results to the other ranks, before any process groups exist.

The first rank of each other node reads too if the node has files of its own, and refuses files that differ.
"""

import json
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from trainer.data.files import looking_up_by
from trainer.distributed.groups import TIMEOUT_S
from trainer.distributed.start_store import StartStore

PART_BYTES = 4 << 20
"""Largest entry written to a store; torch's store refuses more than 8 MiB."""


@contextmanager
def first_rank_looks(ranks: StartStore) -> Iterator[None]:
    """While entered, rank 0 makes each look-up once, and sends its result to the others through the launcher's store.

    Listings of a million pictures by 512 ranks would keep one file system busy for minutes. A single process only
    caches its results.
    """
    results: dict[str, Any] = {}

    def lookup(key: str, find: Callable[[], Any], folder: Path | None, /) -> Any:
        if key not in results:
            results[key] = find() if ranks.launch.world_size == 1 else shared(ranks, key, find, folder)
        return results[key]

    with looking_up_by(lookup):
        yield


def shared(ranks: StartStore, key: str, find: Callable[[], Any], folder: Path | None = None) -> Any:
    """Looks at files on rank 0 and sends the JSON value to the others.

    Args:
        key: the same on every rank.
        folder: the folder that `find` reads; a node that shares it with rank 0 does not call `find`.

    Raises:
        ValueError: `find` raised it on rank 0 (same message on every rank), or the files of this node differ.
    """
    if ranks.launch.rank > 0:
        answer = json.loads(_read(ranks, key))
        if "problem" in answer:
            raise ValueError(answer["problem"])
        if ranks.leads and ranks.node > 0 and not _same_folder(folder, answer["folder"]):
            _check_equal(key, json.loads(json.dumps(find())), answer["found"])
        return answer["found"]
    try:
        value = find()
    except ValueError as error:
        _write(ranks.store, key, {"problem": str(error)})
        raise
    _write(ranks.store, key, {"found": value, "folder": _identity(folder)})
    return value


def _identity(folder: Path | None) -> list[int] | None:
    """Inode number and times of change of a folder, the same on all nodes that share it, but not for a copy."""
    if folder is None:
        return None
    status = folder.stat()
    return [status.st_ino, status.st_ctime_ns, status.st_mtime_ns]


def _same_folder(folder: Path | None, identity: list[int] | None) -> bool:
    try:
        return identity is not None and _identity(folder) == identity
    except OSError:  # `find` will report it
        return False


def _check_equal(key: str, own: Any, value: Any) -> None:
    if own == value:
        return
    if not isinstance(own, list) or not isinstance(value, list):
        raise ValueError(f"path: {key} differ from those of node 0; give all nodes the same data")
    here, there = set(map(str, own)), set(map(str, value))
    first = min(here ^ there, default="their order")
    where = "only here" if first in here else "only on node 0"
    problem = f"{len(own)} here and {len(value)} on node 0 ({first} {where})"
    raise ValueError(f"path: {key}: {problem}; give all nodes the same data")


def _write(store: dist.Store, key: str, answer: dict[str, Any]) -> None:
    content = zlib.compress(json.dumps(answer).encode())
    parts = [content[first : first + PART_BYTES] for first in range(0, len(content), PART_BYTES)]
    for number, part in enumerate(parts):
        store.set(f"found/{key}/{number}", part)  # pyright: ignore[reportArgumentType]  bytes are taken as they are
    store.set(f"found/{key}", str(len(parts)))


def _read(ranks: StartStore, key: str) -> bytes:
    until = time.monotonic() + TIMEOUT_S
    parts = int(ranks.read(f"found/{key}", until))
    return zlib.decompress(b"".join(ranks.read(f"found/{key}/{number}", until) for number in range(parts)))
