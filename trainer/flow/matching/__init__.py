"""A coupling, a time sampler, a path, a target and an objective, put together for one training step."""

from typing import NamedTuple

import torch
from torch import Tensor

from moe.host_copies import to_device
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.condition import random_keys
from trainer.flow.coupling import Coupling, Independent
from trainer.flow.field import NetworkField
from trainer.flow.objective import Model, Objective, ObjectiveInputs, Regression
from trainer.flow.path import Linear, Path, PathSample
from trainer.flow.target import Target, Velocity
from trainer.flow.time import TimeSampler, Uniform


class TrainingPoints(NamedTuple):
    """Points x_t [B, *D] of paths at times t [B], and the training targets [B, num_fields C, *rest].

    Weights [B] of the pairs have mean 1. Couplings may permute conditions together with the data.
    """

    t: Tensor
    x_t: Tensor
    target: Tensor
    weight: Tensor
    condition: Condition


class FlowMatching:
    """Draws training points and scores a network on them, on one process.

    The defaults are conditional flow matching with independent pairs on straight paths, the velocity as target and the
    mean squared error: Lipman et al., "Flow Matching for Generative Modeling", arXiv 2210.02747, equation 9.
    """

    def __init__(
        self,
        *,
        coupling: Coupling | None = None,
        time: TimeSampler | None = None,
        path: Path | None = None,
        target: Target | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.coupling = coupling or Independent()
        self.time = time or Uniform()
        self.path = path or Linear()
        self.target = target or Velocity().build(self.path)
        self.objective = objective or Regression().build(ObjectiveInputs(self.target))
        self._draws = getattr(self.objective, "draws", False)  # a user's objective need not have the attribute

    def draw(
        self,
        x_1: Tensor,
        condition: Condition = UNCONDITIONAL,
        *,
        x_0: Tensor | None = None,
        generator: torch.Generator,
    ) -> TrainingPoints:
        """Draws one point on the path of each data point [B, *D]; if `x_0` is None, the coupling draws source points.

        All draws are made on the device of the generator, so that a CPU generator gives the same points everywhere. The
        points are on the device of `x_1`. Raises ValueError if `x_0` has another shape than `x_1`.
        """
        sample, weight, condition = self._sample(x_1, condition, x_0, generator)
        weight = torch.ones_like(sample.t) if weight is None else weight
        return TrainingPoints(sample.t, sample.x_t, self.target.make(sample), weight, condition)

    def loss(
        self,
        model: Model,
        x_1: Tensor,
        condition: Condition = UNCONDITIONAL,
        *,
        x_0: Tensor | None = None,
        generator: torch.Generator,
    ) -> Tensor:
        """The loss of ``model(x_t, t, condition)`` on one point of each path, a mean weighted by the pairs.

        The other arguments are those of `draw`.
        """
        sample, weight, condition = self._sample(x_1, condition, x_0, generator)
        return self.objective.loss(model, sample, condition).mean(weight)

    def field(self, model: Model, condition: Condition = UNCONDITIONAL) -> NetworkField:
        """The field that a sampler follows from source to data, with the conditions of the B samples that are drawn."""
        return NetworkField(lambda x, t: model(x, t, condition), self.target)

    def _sample(
        self, x_1: Tensor, condition: Condition, x_0: Tensor | None, generator: torch.Generator
    ) -> tuple[PathSample, Tensor | None, Condition]:
        """Points of the paths, the weights [B] with mean 1 (None: equal), and the conditions in the same order."""
        pairs = self.coupling.draw(x_1, condition, x_0=x_0, generator=generator)
        t = self.time.sample(len(x_1), generator=generator, device=x_1.device)
        weight = None if pairs.log_weight is None else len(x_1) * pairs.log_weight.softmax(0)
        sample = self.path.sample(pairs, t, generator=generator)
        if self._draws:
            sample = sample._replace(keys=to_device(random_keys(len(t), generator), t.device))
        return sample, weight, pairs.condition
