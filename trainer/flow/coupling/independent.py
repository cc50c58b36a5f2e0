"""Every data point is paired with a fresh Gaussian draw."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from trainer.flow.coupling.protocol import Coupling, Pairs


class IndependentConfig(BaseModel, extra="forbid", frozen=True):
    """Source and data are drawn independently; nothing to set."""

    kind: Literal["independent"] = "independent"


class Independent(Coupling):
    """The product of a standard normal source and the data.

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, section 4.
    """

    def draw(
        self, x_1: Tensor, condition: Tensor | None, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; the source is N(0, I) in the type of `x_1`, row i goes with row i, all weights are 1."""
        if x_0 is None:
            x_0 = torch.randn(x_1.shape, generator=generator, device=generator.device, dtype=x_1.dtype).to(x_1.device)
        if x_0.shape != x_1.shape:
            raise ValueError(f"x_0: shape {tuple(x_0.shape)} is not that of x_1, {tuple(x_1.shape)}; give one per row")
        rows = torch.arange(x_1.shape[0], device=x_1.device)
        weight = torch.ones(x_1.shape[0], device=x_1.device, dtype=x_1.dtype)
        return Pairs(x_0=x_0, x_1=x_1, weight=weight, condition=condition, source_index=rows, target_index=rows)
