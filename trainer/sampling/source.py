"""The states that the paths of samples begin at."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import trainer.data
from moe.seeds import derive_seed, fold_in, normal
from trainer.config.run import RunConfig
from trainer.data import Split


def source_samples(config: RunConfig, examples: Tensor, *, seed: int, split: Split = "held_out") -> Tensor:
    """States that paths of examples int64 [B] begin at: noise, another data set, or the data; float32 [B, *shape] on
    the CPU.
    """
    if config.flow is not None and config.source_data is not None:
        points = trainer.data.source_points(trainer.data.build(config.source_data), examples, seed=seed, split=split)
        return config.flow.data_scale * points if config.flow.path.kind == "mirror_interpolant" else points
    values = torch.arange(math.prod(config.state_shape))
    drawn = normal(fold_in(keys_of(examples, "start", seed=seed)[:, None], values))
    return drawn.float().reshape(len(examples), *config.state_shape)


def keys_of(examples: Tensor, purpose: str, *, seed: int) -> Tensor:
    """Keys int64 [B] of draws for examples, for each by its number alone; ``trajectory`` is the noise of a sampler."""
    return fold_in(torch.tensor(derive_seed(seed, purpose)), examples)
