"""The way back that Euler's method nearly returns from: the velocity is taken where Euler's method will take it."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from moe.validation.section import Section
from trainer.flow.inversion.protocol import Inversion, Inverted
from trainer.flow.sampler import Field, Sampler, Segmented, Trajectory, VelocityField
from trainer.flow.sampler.protocol import check_times


class UniInversionConfig(Section):
    """UniInv: Euler's steps undone by one evaluation each; nothing to set."""

    kind: Literal["uni_inversion"] = "uni_inversion"


class EulerInverse(Sampler):
    """Undoes Euler's steps x_t = x_s + (t - s) v(x_s, s), one after the other.

    The unknown start of a step is guessed by the last velocity, y = x_t - (t - s) u, and the velocity there gives the
    step: u <- v(y, s), x_s = x_t - (t - s) u. A guess is wrong by O(h^2) for a step of length h and so is its velocity;
    back and forth over all steps is wrong by O(h^2), where Euler's method on the grid turned round is wrong by O(h).
    The first guess takes the velocity at the first state, which is one evaluation more.

    Source: Jiao et al., "UniEdit-Flow: Unleashing Inversion and Editing in the Era of Flow Models", arXiv 2504.13109,
    algorithm 1 (Uni-Inv).
    """

    def sample(
        self,
        field: VelocityField,
        x_init: Tensor,
        times: Tensor,
        *,
        keys: Tensor | None = None,  # noqa: ARG002
    ) -> Trajectory:
        """See `Sampler.sample`; the grid begins where the steps that are undone end."""
        check_times(times)
        grid = times.to(x_init.device)
        states, velocity = [x_init], field(x_init, grid[0].expand(len(x_init)))
        for t, s in pairwise(grid):
            x = states[-1]
            velocity = field(x + (s - t) * velocity, s.expand(len(x)))
            states.append((x + (s - t) * velocity).to(x_init.dtype))
        return Trajectory(torch.stack(states), times, {"network": len(times)})


class UniInversion(Inversion):
    """Goes back to noise from which Euler's method on the same grid comes near the given states.

    Args:
        segments: of the flow; every one begins with a guess of its own, since no step knows the field of two. None: the
            flow has none.
    """

    def __init__(self, segments: int | None = None) -> None:
        self.sampler = EulerInverse() if segments is None else Segmented(EulerInverse(), segments)

    def invert(self, field: Field, states: Tensor, times: Tensor, *, keys: Tensor) -> Inverted:  # noqa: ARG002
        """See `Inversion.invert`; nothing is drawn."""
        back = self.sampler.sample(field, states, times.flip(0))
        return Inverted(back.final, back.calls["network"])
