"""The optimiser's settings."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from netsim.foundation.settings import Section

_Decay = Annotated[float, Field(ge=0, lt=1)]
_EXPERT = re.compile(r"\.experts\.\d+\.")
_Rates = Annotated[
    dict[Annotated[str, Field(pattern=r"^\w[\w.]*$")], PositiveFloat], Field(exclude_if=lambda rates: not rates)
]
"""None are not written: runs from before there were any keep their identity."""


class OptimConfig(Section):
    """AdamW, its schedule, clipping and the moving average of the weights."""

    steps: int = Field(gt=0, le=1_000_000_000)
    """Optimiser steps of the whole run."""
    global_batch: int = Field(gt=0, le=1_000_000_000)
    """Examples of one optimiser step over all ranks."""
    micro_batch: PositiveInt | None = None
    """Examples of one forward pass on one rank; null: no accumulation."""
    lr: PositiveFloat = 1e-3
    """Largest learning rate, reached after the warm-up; then it falls along a cosine."""
    warmup_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    """Steps over which the learning rate rises from 0."""
    final_lr: float = Field(default=0.0, ge=0)
    """Learning rate at the end of the cosine."""
    rates: _Rates = Field(default_factory=dict)
    """Factors of the learning rate of some parameters, by how a dotted part of their names begins, such as {routing:
    100}; of several keys that fit a name the longest counts. The experts of a layer have one name, without numbers."""
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    """Decay rates of the first and second moments of AdamW."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of a weight, times the learning rate, that AdamW takes off in each step."""
    clip_norm: PositiveFloat | None = 1.0
    """Largest norm of the gradient over all parameters and ranks; null: no clipping."""
    ema_decay: _Decay = 0.999
    """Decay of the moving average; at step s at most (1 + s) / (10 + s)."""

    def rate_of(self, name: str) -> float:
        """The factor of the learning rate of a parameter; 1 where `rates` do not name it."""
        fitting = [key for key in self.rates if fits(key, name)]
        return self.rates[max(fitting, key=len)] if fitting else 1.0


def fits(key: str, name: str) -> bool:
    """Whether a dotted part of a parameter's name begins with a key of `rates`; an expert's number is no part of it."""
    return f".{key}" in f".{_EXPERT.sub('.experts.', name)}"


def in_order(rates: Iterable[float]) -> list[float]:
    """The factors that there are, each once, in the order of the optimiser's groups: 1, then from the smallest up."""
    return sorted(set(rates), key=lambda rate: (rate != 1, rate))
