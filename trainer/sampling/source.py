"""The states that the paths of samples begin at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import trainer.data
from moe.random.keyed import fold_in, normal
from moe.random.seed import derive_seed
from trainer.config.run import RunConfig
from trainer.data import Split


def source_samples(config: RunConfig, examples: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
    """Draws the states that the paths of examples begin at: noise, examples of another data set, or the data.

    Args:
        config: the run.
        examples: int64 [B] numbers of the examples, each of which decides its own state.
        seed: of the draws.
        split: the part of a finite data set that they are from.

    Returns:
        float32 [B, *shape] on the CPU.
    """
    if config.flow is not None and config.source_data is not None:
        points = trainer.data.source_points(trainer.data.build(config.source_data), examples, seed=seed, split=split)
        return config.flow.data_scale * points if config.flow.path.kind == "mirror_interpolant" else points
    values = torch.arange(math.prod(config.state_shape))
    drawn = normal(fold_in(keys_of(examples, "start", seed=seed)[:, None], values))
    return drawn.float().reshape(len(examples), *config.state_shape)


def keys_of(examples: Tensor, purpose: str, *, seed: int) -> Tensor:
    """Keys of what is drawn for examples, for each by its number alone.

    Args:
        examples: int64 [B] their numbers.
        purpose: what is drawn; ``trajectory``: the noise of a sampler.
        seed: of the draws.

    Returns:
        int64 [B] on the CPU.
    """
    return fold_in(torch.tensor(derive_seed(seed, purpose)), examples)
