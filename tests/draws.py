"""Random numbers of tests."""

import torch


def generator(seed: int = 0) -> torch.Generator:
    """A generator of the host that begins at a seed."""
    return torch.Generator().manual_seed(seed)
