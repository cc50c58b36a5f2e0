"""Agreement of states with observations: exact where states are images, by descent through a decoder elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainer.flow.condition import per_value
from trainer.flow.operator import Operator

Decode = Callable[[Tensor], Tensor]
"""From states [B, *D] to images [B, C, H, W]; differentiable."""

PROBE = 1e-2
"""Length, relative to the states, of the step by which the effect of a direction is measured."""
TINY = torch.finfo(torch.float32).tiny
"""Keeps divisors above 0 where states already agree."""
SHRINK = 0.25
"""Factor of the next step of an example whose last step did not bring it nearer."""


class Consistency(Protocol):
    """Agreement of states with the observations that were made of them."""

    def initial(self) -> Tensor:
        """The states [B, *D] of the pseudo-inverse of the observations."""
        ...

    def enforced(self, states: Tensor, weight: float, /) -> Tensor:
        """The nearest states [B, *D] that agree; `weight` is that of the prior, and may scale gradient steps."""
        ...

    def residual(self, states: Tensor, /) -> Tensor:
        """[B] mean over the observed values of the squared distance |A x - y|^2 / numel."""
        ...


def agreeing(operator: Operator, observed: Tensor, images: Tensor) -> Tensor:
    """The nearest images [B, C, H, W] that agree with observations [B, *S], x + A+ (y - A x)."""
    return images + operator.pseudo_inverse(observed - operator.apply(images))


@dataclass(frozen=True)
class ExactConsistency(Consistency):
    """The nearest states that agree, mu + A+ (y - A mu), of pixels times `scale`; soft if `share` is below 1."""

    operator: Operator
    observed: Tensor
    share: float = 1.0
    scale: float = 1.0

    def initial(self) -> Tensor:
        return self.scale * self.operator.pseudo_inverse(self.observed)

    def enforced(self, states: Tensor, weight: float, /) -> Tensor:  # noqa: ARG002
        images = states / self.scale
        missing = self.observed - self.operator.apply(images)
        return self.scale * (images + self.share * self.operator.pseudo_inverse(missing))

    def residual(self, states: Tensor, /) -> Tensor:
        return (self.operator.apply(states / self.scale) - self.observed).square().flatten(1).mean(1)


@dataclass(frozen=True)
class DecodedConsistency(Consistency):
    """States whose decoded images agree, by nonlinear conjugate gradients on |A D(mu) - y|^2, each example on its own.

    A step has the best length for a linear decoder, which one more decoding along the direction measures. A step that
    does not bring the example nearer is taken back, and the next one is shorter, so that the difference never grows. A
    linear decoder ends at the nearest states that agree. An example rests when |A D(mu) - y|^2 / numel is at most the
    tolerance. An iteration costs two decodings and one gradient. It makes the share `share`, in (0, 1], of its step.
    Nocedal and Wright, "Numerical Optimization", 2006, equation 5.45 (Polak and Ribière, not below 0).
    """

    operator: Operator
    observed: Tensor
    decode: Decode
    start: Tensor
    _: KW_ONLY
    iterations: int = 15
    tolerance: float = 1e-4
    share: float = 1.0

    def initial(self) -> Tensor:
        return self.start

    def enforced(self, states: Tensor, weight: float, /) -> Tensor:  # noqa: ARG002
        here = self._at(states.detach())
        direction, trust = here.downhill, states.new_ones(())
        for number in range(self.iterations):
            active = here.distance > self.tolerance
            # The host waits from the second step on, which costs less than decoding for examples that all rest.
            if number and not bool(active.any()):
                break
            length = trust * self.share * self._best_length(here, direction)
            tried = self._at(here.states + torch.where(per_value(active, states), length * direction, 0))
            nearer = active & (tried.distance < here.distance)
            accepted = per_value(nearer, states)
            direction = torch.where(accepted, tried.conjugate(here, direction), here.downhill)
            trust = torch.where(accepted, 1.0, trust * SHRINK)
            here = here.replaced(tried, nearer)
        return here.states

    @torch.no_grad()
    def residual(self, states: Tensor, /) -> Tensor:
        return _mean(self._missing(states))

    def _missing(self, states: Tensor) -> Tensor:
        return self.observed - self.operator.apply(self.decode(states))

    def _at(self, states: Tensor) -> _Point:
        with torch.enable_grad():
            leaf = states.detach().requires_grad_()
            missing = self._missing(leaf)
            (gradient,) = torch.autograd.grad(missing.square().sum(), leaf)
        return _Point(states, missing.detach(), -0.5 * gradient)

    def _best_length(self, here: _Point, direction: Tensor) -> Tensor:
        """The step length along a direction that minimises the difference if the decoder is linear."""
        states, missing = here.states, here.missing
        size = (_dot(states, states) / _dot(direction, direction).clamp(min=TINY)).sqrt()
        move = PROBE * size.clamp(min=TINY)
        with torch.no_grad():
            effect = (missing - self._missing(states + move * direction)) / per_value(move, missing)
        best = _dot(missing, effect) / _dot(effect, effect).clamp(min=TINY)
        return per_value(best.clamp(min=0), states)


@dataclass(frozen=True)
class _Point:
    """States of a descent, `missing` = y - A D(mu) there, and J' missing, the direction in which its square falls."""

    states: Tensor
    missing: Tensor
    downhill: Tensor

    @property
    def distance(self) -> Tensor:
        return _mean(self.missing)

    def conjugate(self, before: _Point, direction: Tensor) -> Tensor:
        """The conjugate direction of the next step, by the point and direction of the last (Polak and Ribière)."""
        turned = _dot(self.downhill, self.downhill - before.downhill)
        share = turned / _dot(before.downhill, before.downhill).clamp(min=TINY)
        return self.downhill + share.clamp(min=0) * direction

    def replaced(self, other: _Point, where: Tensor) -> _Point:
        """The other point for the examples in `where`, bool [B], this one for the rest."""
        states, missing = per_value(where, self.states), per_value(where, self.missing)
        return _Point(
            torch.where(states, other.states, self.states),
            torch.where(missing, other.missing, self.missing),
            torch.where(states, other.downhill, self.downhill),
        )


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return per_value((x * y).flatten(1).sum(1), x)


def _mean(missing: Tensor) -> Tensor:
    return missing.square().flatten(1).mean(1)
