"""Every data point is paired with a fresh Gaussian draw."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.coupling.protocol import Coupling, Pairs, standard_normal


class IndependentConfig(Section):
    """Source and data are drawn independently; nothing to set."""

    kind: Literal["independent"] = "independent"


class Independent(Coupling):
    """The product of a standard normal source and the data.

    Source: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, section 4.
    """

    normal_source = True

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; the source is N(0, I), row i is paired with row i, and all weights are equal."""
        x_0 = standard_normal(x_1, x_0, generator)
        return Pairs(x_0, x_1, condition)
