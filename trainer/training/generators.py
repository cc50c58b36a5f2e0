"""Repeatability of a run: draws that depend on (seed, purpose, step, micro batch), and sums in a fixed order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from moe.seeds import derive_seed


def micro_batch_generator(run_seed: int, purpose: str, step: int, micro: int) -> torch.Generator:
    """The generator of everything that is drawn for a micro batch (by its global number), but for dropout."""
    return torch.Generator().manual_seed(derive_seed(run_seed, purpose, step, micro))


def seed_dropout(run_seed: int, purpose: str, step: int, micro: int) -> None:
    """Seeds torch's own generators, which dropout uses, by the arguments of :func:`micro_batch_generator`."""
    torch.manual_seed(derive_seed(derive_seed(run_seed, purpose, step, micro), "dropout"))


@contextmanager
def deterministic_operations(wanted: bool) -> Iterator[None]:
    """While entered, if wanted, GPU operations add in a fixed order; operations that cannot do so raise an error."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, matrix products raise
    settings: Any = torch.utils.deterministic  # its stubs lack the attribute
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    settings.fill_uninitialized_memory = False  # all of it is written before it is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]
