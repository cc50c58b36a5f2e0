"""Other ways to restore images with a flow, beside which a solver of inverse problems is measured.

All follow Euler's method from noise and evaluate the network once a step. What they restore does not agree with the
observations; `trainer.flow.inverse.agreeing` puts these back.

Sources: Lugmayr et al., "RePaint", arXiv 2201.09865, without its repeated steps (replacement); Chung et al., "Diffusion
Posterior Sampling", arXiv 2209.14687 (gradient guidance).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.flow.inverse import agreeing
from trainer.flow.operator import Operator
from trainer.flow.sampler import Field


def euler(noise: Tensor, steps: int, change: Callable[[Tensor, float, float], Tensor]) -> Tensor:
    """Follows steps from a state, a time and a length to the next state."""
    x = noise
    for number in range(steps):
        x = change(x, number / steps, 1 / steps)
    return x


@torch.no_grad()
def replacement(field: Field, noise: Tensor, operator: Operator, observed: Tensor, steps: int) -> Tensor:
    """What is observed of each state becomes that of the observations with noise.

    Args:
        field: of the flow on the straight path, whose states are images.
        noise: [B, C, H, W] the first states.
        operator: made for the rows.
        observed: [B, *S] the observations.
        steps: evaluations of the field.
    """

    def change(x: Tensor, t: float, h: float) -> Tensor:
        wanted = (1 - t) * operator.apply(noise) + t * observed
        x = agreeing(operator, wanted, x)
        return x + h * field(x, torch.full((len(x),), t))

    return euler(noise, steps, change)


@torch.no_grad()
def replacement_in_latents(
    field: Field,
    noise: Tensor,
    operator: Operator,
    observed: Tensor,
    steps: int,
    *,
    decode: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
) -> Tensor:
    """What is observed is put into the image that each state is expected to become, which is encoded again.

    A state goes on towards the result from the noise that the field expects in it.

    Args:
        field: of the flow on the straight path, whose states are latents.
        noise: [B, *D] the first states.
        operator: made for the rows.
        observed: [B, *S] the observations.
        steps: evaluations of the field, each beside one decoding and one encoding.
        decode: from states to images.
        encode: from images to states.
    """

    def change(x: Tensor, t: float, h: float) -> Tensor:
        expected, start = field.estimate(x, torch.full((len(x),), t), "data", "noise")
        expected = encode(agreeing(operator, observed, decode(expected)))
        return (1 - t - h) * start + (t + h) * expected

    return euler(noise, steps, change)


def guided(field: Field, noise: Tensor, operator: Operator, observed: Tensor, steps: int, *, size: float) -> Tensor:
    """Each step also goes down |A x_1(x) - y| through the network.

    Args:
        field: of the flow on the straight path, whose states are images.
        noise: [B, C, H, W] the first states.
        operator: A, made for the rows.
        observed: [B, *S] the observations y.
        steps: evaluations of the field, each with a gradient.
        size: length of the step down, relative to the gradient.
    """

    def change(x: Tensor, t: float, h: float) -> Tensor:
        leaf = x.detach().requires_grad_()
        velocity = field(leaf, torch.full((len(x),), t))
        missing = operator.apply(leaf + (1 - t) * velocity) - observed
        (gradient,) = torch.autograd.grad(missing.square().flatten(1).sum(1).sqrt().sum(), leaf)
        return (x + h * velocity - size * gradient).detach()

    return euler(noise, steps, change)
