"""Pairs of source and data points, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from moe.host_copies import to_device
from trainer.flow.condition import UNCONDITIONAL, Condition


class Pairs(NamedTuple):
    """A batch of pairs of a source point and a data point.

    Attributes:
        x_0: [B, *D] source points.
        x_1: [B, *D] data points.
        condition: conditioning of each pair.
        log_weight: [B] logarithms of the weights of the pairs, of which only the differences matter; None: all equal.
        interval: [B, 2] times at which the path of each pair is at x_0 and at x_1; None: 0 and 1.
    """

    x_0: Tensor
    x_1: Tensor
    condition: Condition = UNCONDITIONAL
    log_weight: Tensor | None = None
    interval: Tensor | None = None


class Coupling(Protocol):
    """Draws source points for data points and decides which of them form pairs.

    Attributes:
        normal_source: a standard normal draw for each data point, given as `x_0`, is what it would draw itself, so that
            it may be drawn while the data are read.
    """

    normal_source: bool = False

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        """Pairs a batch of data with source points.

        Args:
            x_1: [B, *D] data.
            condition: conditioning of the data points; each keeps its own in whatever order the pairs are.
            x_0: [B, *D] source points to use; None: they are drawn from the coupling's source distribution.
            generator: of all draws. These are made on its device and moved to that of `x_1`, so that a CPU generator
                gives the same batch on every accelerator.

        Returns:
            The pairs, on the device of `x_1`.

        Raises:
            ValueError: if `x_0` has another shape than `x_1`.
        """
        ...

    def draw_step(
        self,
        x_1: Sequence[Tensor],
        conditions: Sequence[Condition],
        *,
        generators: Sequence[torch.Generator],
        x_0: Sequence[Tensor | None] | None = None,
        ranks: dist.ProcessGroup | None = None,  # noqa: ARG002
    ) -> list[Pairs]:
        """Pairs all micro batches of a rank's step, each separately unless a coupling overrides this.

        Args:
            x_1: [B, *D] data of each micro batch, as many on every rank.
            conditions: of each.
            generators: of each, as in :meth:`draw`.
            x_0: [B, *D] source points of each to use; None: they are drawn.
            ranks: the ranks with different data of the same step; a coupling that pairs points of several ranks is
                collective over them. None: there is no other rank.

        Returns:
            The pairs of each micro batch, in the order of its data.
        """
        together = zip(x_1, conditions, x_0 or [None] * len(x_1), generators, strict=True)
        return [
            self.draw(data, condition, x_0=source, generator=generator)
            for data, condition, source, generator in together
        ]


def standard_normal(x_1: Tensor, x_0: Tensor | None, generator: torch.Generator) -> Tensor:
    """The source points of a batch: `x_0` if there are any, else a standard normal draw for each data point.

    Args:
        x_1: [B, *D] data.
        x_0: [B, *D], or None.
        generator: of the draw.

    Returns:
        [B, *D] in the type and on the device of `x_1`.

    Raises:
        ValueError: `x_0` has another shape than `x_1`.
    """
    if x_0 is None:
        drawn = torch.empty_like(x_1, device=generator.device).normal_(generator=generator)
        return to_device(drawn, x_1.device)
    if x_0.shape != x_1.shape:
        raise ValueError(f"x_0: shape {tuple(x_0.shape)} is not that of x_1, {tuple(x_1.shape)}; give one per row")
    return x_0
