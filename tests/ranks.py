"""Runs a function on several local ranks that talk over gloo."""

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.forked import PRELOADED

mp.set_forkserver_preload(PRELOADED)


def run_ranks(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """Calls ``function(rank, world_size, *arguments)`` on every rank of a fresh process group.

    Args:
        function: importable by name; runs inside an initialised gloo group with one thread.
        world_size: number of processes.
        *arguments: plain values or tensors.

    Returns:
        What each rank returned, by rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        call = (function, world_size, arguments, folder)
        mp.start_processes(_call, call, nprocs=world_size, start_method="forkserver")  # pyright: ignore[reportArgumentType]
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world_size)]


def _call(rank: int, function: Callable[..., Any], world_size: int, arguments: tuple[Any, ...], folder: str) -> None:
    gc.freeze()  # no search for garbage looks through what the server has imported
    torch.set_num_threads(1)
    os.environ.update(GLOO_SOCKET_IFNAME="lo", LOCAL_RANK=str(rank))
    store = dist.FileStore(str(Path(folder) / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    result = function(rank, world_size, *arguments)
    torch.save(result, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
