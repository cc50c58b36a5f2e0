"""Every data point is paired with its own source point from the data set."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.coupling.protocol import Coupling, Pairs, standard_normal


class PairedConfig(Section):
    """The pairs that the data set holds; nothing to set."""

    kind: Literal["paired"] = "paired"


class Paired(Coupling):
    """Row i of the source is paired with row i of the data, which a teacher made from it.

    Source: Liu et al., "Flow Straight and Fast", arXiv 2209.03003, section 2.1 (the rectified coupling).
    """

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """See `Coupling.draw`; nothing is drawn.

        Raises:
            ValueError: no source points are given.
        """
        if x_0 is None:
            raise ValueError("x_0: there is none to pair with; use data of kind pairs, or another coupling")
        x_0 = standard_normal(x_1, x_0, generator)
        return Pairs(x_0=x_0, x_1=x_1, condition=condition)
