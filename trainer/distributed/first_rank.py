"""Rank 0 looks at the files of a data set; the other ranks are told, before there are any process groups."""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from trainer.data.found_once import looking_up_by
from trainer.distributed.groups import TIMEOUT_S, Launch, launch_store

PART_BYTES = 4 << 20
"""Of one entry of a store; more than 8 MiB is refused by torch's."""


@contextmanager
def first_rank_looks(launch: Launch) -> Iterator[None]:
    """While entered, each thing is looked up once: by rank 0, which tells the others through the launcher's store.

    With 512 ranks on one file system, 512 listings of a million pictures would keep it busy for minutes.

    Args:
        launch: what the launcher said; a process alone only remembers what it has found.
    """
    found: dict[str, Any] = {}
    store: dist.Store | None = None  # kept until the end, for rank 0 may serve it

    def lookup(key: str, find: Callable[[], Any], /) -> Any:
        nonlocal store
        if store is None and launch.world_size > 1:
            store = launch_store(launch, timedelta(seconds=TIMEOUT_S))
        if key not in found:
            found[key] = find() if store is None else shared(store, launch, key, find)
        return found[key]

    with looking_up_by(lookup):
        yield


def shared(store: dist.Store, launch: Launch, key: str, find: Callable[[], Any]) -> Any:
    """Finds something on rank 0 and tells the others.

    Args:
        store: the ranks' own.
        launch: which rank this is.
        key: what is found, the same on every rank.
        find: looks at the files, on rank 0 alone; a value that JSON can hold.

    Returns:
        The value, on every rank.

    Raises:
        ValueError: `find` raised it on rank 0; the same words on every rank.
    """
    if launch.rank > 0:
        answer = json.loads(_read(store, key))
        if "problem" in answer:
            raise ValueError(answer["problem"])
        return answer["found"]
    try:
        value = find()
    except ValueError as error:
        _write(store, key, {"problem": str(error)})
        raise
    _write(store, key, {"found": value})
    return value


def _write(store: dist.Store, key: str, answer: dict[str, Any]) -> None:
    content = zlib.compress(json.dumps(answer).encode())
    parts = [content[first : first + PART_BYTES] for first in range(0, len(content), PART_BYTES)]
    for number, part in enumerate(parts):
        store.set(f"found/{key}/{number}", part)  # pyright: ignore[reportArgumentType]  bytes are taken as they are
    store.set(f"found/{key}", str(len(parts)))


def _read(store: dist.Store, key: str) -> bytes:
    parts = int(store.get(f"found/{key}"))
    return zlib.decompress(b"".join(store.get(f"found/{key}/{number}") for number in range(parts)))
