"""Steps along a drawn difference of data and source, instead of its mean."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Protocol, cast

import torch
from pydantic import Field as Setting
from torch import Tensor

from trainer.flow.keyed_draws import keyed_normal
from trainer.flow.sampler.grid import GridConfig, Times
from trainer.flow.sampler.ode import Dopri5, Dopri5Config, Euler, EulerConfig, Heun, HeunConfig
from trainer.flow.sampler.protocol import Field, Sampler, Trajectory, check_times

HeadSampler = Euler | Heun | Dopri5


class TransitionConfig(GridConfig):
    """Steps whose direction a head draws, one call of the trunk each.

    Attributes:
        steps: number of steps from source to data.
        times: where the steps end, from 0 to 1, or a file of the steps verb; null: the steps are equal.
        head: how the head draws a direction from noise.
    """

    kind: Literal["transition"] = "transition"
    steps: int = Setting(default=4, ge=1, le=10_000)
    times: Times = None
    head: Annotated[EulerConfig | HeunConfig | Dopri5Config, Setting(discriminator="kind")] = EulerConfig(steps=16)


class DrawingField(Field, Protocol):
    """A field with the parts that draw where a path goes on."""

    def tokens(self, x: Tensor, t: Tensor) -> Tensor:
        """Calls the trunk.

        Args:
            x: [B, *D] states.
            t: [B] times.

        Returns:
            [B, N, H] features of their tokens; guidance may add some for another B examples.
        """
        ...

    def head_velocity(self, y: Tensor, s: Tensor, tokens: Tensor) -> Tensor:
        """Calls the head.

        Args:
            y: [B, *D] states of the head.
            s: [B, N] times of the head.
            tokens: what :meth:`tokens` returned.

        Returns:
            [B, *D].
        """
        ...


class Transition(Sampler):
    """x + h Y, with Y drawn by the head for the tokens of x: a flow of its own from N(0, I) over times s from 0 to 1.

    The draws of a step are a function of the keys of the examples and its number.

    Source: Shaul et al., "Transition Matching", arXiv 2506.23589, section 3 (difference transition matching).
    """

    def __init__(self, head: HeadSampler, head_times: Tensor) -> None:
        self.head = head
        self.head_times = head_times

    def sample(self, field: Field, x_init: Tensor, times: Tensor, *, keys: Tensor | None = None) -> Trajectory:
        """The field is a :class:`DrawingField`; without keys a ValueError."""
        check_times(times)
        if keys is None:
            raise ValueError("keys: None, and this sampler draws noise; give one for each example")
        drawing, states, head_calls = cast(DrawingField, field), [x_init], 0
        for number, (t, t_next) in enumerate(pairwise(times.to(x_init.device))):
            x = states[-1]
            drawn = self._draw(drawing, drawing.tokens(x, t.expand(len(x))), keyed_normal(x, keys, number))
            states.append((x + (t_next - t) * drawn.final).to(x_init.dtype))
            head_calls += drawn.calls["network"]
        return Trajectory(torch.stack(states), times, {"network": len(times) - 1, "head": head_calls})

    def _draw(self, field: DrawingField, tokens: Tensor, y_0: Tensor) -> Trajectory:
        """The way of the head from noise [B, *D] to a difference of data and source."""

        def velocity(y: Tensor, s: Tensor) -> Tensor:
            return field.head_velocity(y, s[:, None].expand(-1, tokens.shape[1]), tokens)

        return self.head.sample(velocity, y_0, self.head_times)
