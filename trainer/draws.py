"""What a run draws."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from moe.seed import derive_seed


@contextmanager
def draws(run_seed: int, purpose: str, step: int, micro: int) -> Iterator[torch.Generator]:
    """Makes every draw inside a function of (seed, purpose, step, micro batch), whichever rank has the batch.

    Args:
        run_seed: of the run.
        purpose: what is drawn for, `train` or `held_out`.
        step: optimiser step, or what stands for it.
        micro: number of the micro batch in the global batch.

    Yields:
        A generator for what takes one; torch's own, which dropout uses, is seeded too.
    """
    seed = derive_seed(run_seed, purpose, step, micro)
    torch.manual_seed(derive_seed(seed, "dropout"))
    yield torch.Generator().manual_seed(seed)
