"""Where the paths of samples begin."""

import torch
from torch import Tensor

import trainer.data
from moe.random.seed import derive_seed
from trainer.config.run import RunConfig


def starts(config: RunConfig, examples: Tensor, *, seed: int) -> Tensor:
    """Where the paths of examples begin, for each by its number alone: at noise, at another data set, or at the data.

    Args:
        config: the run.
        examples: int64 [B] their numbers.
        seed: of the draws.

    Returns:
        float32 [B, *shape] on the CPU.
    """
    if config.flow is not None and config.starts_at is not None:
        points = trainer.data.starting_points(trainer.data.build(config.starts_at), examples, seed=seed)
        return config.flow.data_scale * points if config.flow.path.kind == "mirror_interpolant" else points
    generators = [torch.Generator().manual_seed(derive_seed(seed, "start", example)) for example in examples.tolist()]
    return torch.stack([torch.randn(config.state_shape, generator=generator) for generator in generators])
