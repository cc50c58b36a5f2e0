"""The density that a flow assigns to an example."""

import math
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from trainer.flow.sampler import Dopri5, Euler, Field, Heun, Segmented, VelocityField


def log_density(
    field: VelocityField,
    x_1: Tensor,
    solver: Euler | Heun | Dopri5 | Segmented,
    times: Tensor,
    *,
    probes: Tensor | None = None,
) -> Tensor:
    """Computes log p(x_1) [B] of a flow from a standard normal source, by the instantaneous change of variables.

    log p_1(x_1) = log N(x_0; 0, I) - int_0^1 div v(x_t, t) dt along the path that ends in x_1. State and integral are
    solved together, from the data to the source. Source: Chen et al., "Neural Ordinary Differential Equations", 2018,
    theorem 1; Grathwohl et al., "FFJORD", 2019, equation 7 (probes).

    Args:
        field: velocity, differentiable in the state; no example depends on another. A :class:`Field` if the solver is
            segmented.
        x_1: [B, *D] examples.
        solver: of the ordinary differential equation; segmented if the field jumps between segments of time.
        times: [T] grid of times from source (0) to data (1).
        probes: [P, B, *D] random vectors of mean 0 and covariance 1, by which the divergence is estimated without bias,
            with P derivatives an evaluation. None: it is exact, with one derivative for each value of an example.
    """
    num_values = x_1[0].numel()
    start = torch.cat([x_1.flatten(1), torch.zeros_like(x_1.flatten(1)[:, :1])], dim=1)
    augmented = _WithDivergence(field, x_1.shape, probes)
    with torch.no_grad():
        end = solver.sample(cast(Field, augmented), start, times.flip(0)).final
    x_0, integral = end[:, :num_values], -end[:, num_values]
    return -0.5 * (x_0.square().sum(1) + num_values * math.log(math.tau)) - integral


def random_signs(num: int, x: Tensor, generator: torch.Generator) -> Tensor:
    """Draws [P, B, *D] random values -1 and 1, which give the estimate of the trace of smallest variance.

    Source: Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.
    """
    drawn = torch.randint(2, (num, *x.shape), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(x.device, x.dtype)


def bits_per_dimension(log_densities: Tensor, num_values: int) -> float:
    """Mean of -log2 p over examples, divided by their number of values.

    The density is in units of the data: scaling the data by s adds log2 s. On quantised data, such as 8-bit images, the
    density has no upper bound.
    """
    return -float(log_densities.double().mean()) / (num_values * math.log(2))


@dataclass(frozen=True)
class _WithDivergence:
    """Velocity of flattened states with the integral of the divergence as last value: [B, values + 1]."""

    field: VelocityField
    shape: torch.Size
    probes: Tensor | None

    def __call__(self, state: Tensor, t: Tensor, /) -> Tensor:
        with torch.enable_grad():
            x = state[:, :-1].reshape(self.shape).detach().requires_grad_()
            velocity = self.field(x, t)
            divergence = _exact(velocity, x) if self.probes is None else _probed(velocity, x, self.probes)
        return torch.cat([velocity.detach().flatten(1), divergence[:, None]], dim=1)

    def within(self, segment: int, /) -> Field:
        return cast(Field, replace(self, field=cast(Field, self.field).within(segment)))


def _exact(velocity: Tensor, x: Tensor) -> Tensor:
    columns = velocity.flatten(1).sum(0)
    places = range(len(columns))
    slopes = [torch.autograd.grad(columns[i], x, retain_graph=True)[0].flatten(1)[:, i] for i in places]
    return torch.stack(slopes).sum(0)


def _probed(velocity: Tensor, x: Tensor, probes: Tensor) -> Tensor:
    products = [(torch.autograd.grad(velocity, x, z, retain_graph=True)[0] * z).flatten(1).sum(1) for z in probes]
    return torch.stack(products).mean(0)
