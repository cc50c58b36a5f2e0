"""The optimiser's settings."""

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from moe.validation.section import Section

_Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Section):
    """AdamW, its schedule, clipping and the moving average of the weights."""

    steps: PositiveInt
    """Optimiser steps of the whole run."""
    global_batch: PositiveInt
    """Examples of one optimiser step over all ranks."""
    micro_batch: PositiveInt | None = None
    """Examples of one forward pass on one rank; null: no accumulation."""
    lr: PositiveFloat = 1e-3
    """Largest learning rate, reached after the warm-up; then it falls along a cosine."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises from 0."""
    final_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of the cosine."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    """Decay rates of the first and second moments of AdamW."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of a weight, times the learning rate, that AdamW takes off in each step."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient over all parameters and ranks; null: no clipping."""
    ema_decay: _Decay = 0.999
    """Decay of the moving average; at step s at most (1 + s) / (10 + s)."""
