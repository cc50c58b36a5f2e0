"""What a run draws: a function of (seed, purpose, step, micro batch), whichever rank has the batch."""

import torch

from moe.random.seed import derive_seed


def micro_batch_generator(run_seed: int, purpose: str, step: int, micro: int) -> torch.Generator:
    """Makes the generator of everything that is drawn for a micro batch, but for dropout.

    Args:
        run_seed: of the run.
        purpose: what is drawn for, `train` or `held_out`.
        step: optimiser step, or what stands for it.
        micro: number of the micro batch in the global batch.
    """
    return torch.Generator().manual_seed(derive_seed(run_seed, purpose, step, micro))


def seed_dropout(run_seed: int, purpose: str, step: int, micro: int) -> None:
    """Seeds torch's own generators, which dropout uses, for a micro batch; see :func:`micro_batch_generator`."""
    torch.manual_seed(derive_seed(derive_seed(run_seed, purpose, step, micro), "dropout"))
