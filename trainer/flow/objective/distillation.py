"""Students of a teacher: the step of it that they learn, and what they are trained on, velocities or consistency."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from netsim.foundation.run_reference import ReferenceConfig
from trainer.flow.condition import Condition, keyed_normal, per_value
from trainer.flow.objective.protocol import BuiltIn, FrozenFlow, LossTerms, Model
from trainer.flow.objective.regression import Point, at_points, not_learning
from trainer.flow.path.protocol import PathSample


@dataclass(frozen=True)
class TeacherStep:
    """Euler's step of a teacher towards the data, never beyond t = 1, by its velocity [B, *D] where the step begins.

    `length` is the step in time, `longest` unless the data are nearer. `left` is 1 - t. Both are [B, 1, ..., 1].
    """

    velocity: Tensor
    end: Point
    length: Tensor
    left: Tensor
    longest: float

    @property
    def steps_left(self) -> Tensor:
        """Number of such steps [B, 1, ..., 1] from the start of this one to the data, (1 - t) / length, 1 or more."""
        return (self.left / self.longest).clamp(min=1)

    @classmethod
    @torch.no_grad()
    def taken(
        cls, teacher: FrozenFlow, beginning: Point, condition: Condition, *, guidance: float, longest: float
    ) -> TeacherStep:
        """Takes one step of length `longest`, or to t = 1 where less time is left."""
        x, t = beginning
        velocity = teacher.field(condition, guidance, x.device)(x, t).to(x.dtype)
        left = (1 - t).to(x.dtype)
        length = left.clamp(max=longest)
        end = x + per_value(length, x) * velocity, t + length.to(t.dtype)
        return cls(velocity, end, per_value(length, x), per_value(left, x), longest)


Guidance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LEAST_NORM = 0.1
"""Added to the norm that a derivative is divided by."""


class Distillation(BuiltIn):
    """An objective of a student, whose teacher is the reference that it is built on."""

    draws: ClassVar[bool] = False

    @property
    def _reference(self) -> FrozenFlow:
        assert self._inputs.reference is not None
        return self._inputs.reference


class VelocityDistillation(Distillation):
    """The velocity that a mean velocity implies is matched with a teacher's, on the path and on the student's samples.

    A stage with weight_distribution 0 before one with more takes the place of warm-up steps.

    A student u(x_t, t) that is the mean velocity from x_t to the data satisfies u - (1 - t) du/dt = v along the flow of
    the teacher v. With the difference D over a short step of the teacher in place of du/dt, the residual

        r(x_t, t) = u(x_t, t) - (1 - t) D - v(x_t, t)

    is minimised in u alone: D has no gradient. The first term is its square at points of the path. The second takes the
    gradient of u at t = 0, where samples are drawn in one step, along r at samples x' = z' + u(z', 0), noised anew to
    the time of the pair: its value is r^2 there. In the paper's time, 1 - t, velocities and r have the other sign. D
    and x' are of the network in evaluation mode: it is called once or twice without gradients, then once with them.
    "Few-step Flow for 3D Generation via Marginal-Data Transport Distillation", arXiv 2509.04406.
    """

    kind: Literal["velocity_distillation"] = "velocity_distillation"
    teacher: ReferenceConfig
    """The run whose flow is distilled; the student begins with its weights, see model.init_from."""
    weight_distribution: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the term on the student's own samples; 0: it is not computed."""
    step: float = Field(default=0.01, gt=0, lt=1)
    """Time over which the derivative along the teacher's flow is taken. The rounding of a network that computes in bf16
    is magnified by up to its inverse."""
    normalise: bool = False
    """Divide the derivative by its norm over the values of an example, plus 0.1; for states of many values."""
    guidance: tuple[Guidance, Guidance] = (1.0, 1.0)
    """Classifier-free guidance of the teacher on the path and on the student's samples. The student learns it, and is
    itself drawn from with guidance 1."""

    @property
    def draws(self) -> bool:
        return self.weight_distribution > 0

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        path = sample.x_t, sample.t
        if not self.draws:
            with not_learning(model):
                _, wanted = self._compared(model, condition, (path, self.guidance[0]))[0]
            residual = at_points(model, condition, path)[0] - wanted
            return LossTerms(residual.square(), {"velocity_residual": residual.detach().square().mean()})
        start, noised = self._generated(model, sample, condition)
        with not_learning(model):
            on_path, on_samples = zip((path, noised), self.guidance, strict=True)
            (_, wanted), (mean, wanted_there) = self._compared(model, condition, on_path, on_samples)
            off = mean - wanted_there
        mean, first = at_points(model, condition, path, start)
        residual = mean - wanted
        moved = off + first - first.detach()
        terms = {"velocity_residual": residual.detach(), "distribution_residual": off}
        return LossTerms(
            residual.square() + self.weight_distribution * moved.square(),
            {name: value.square().mean() for name, value in terms.items()},
        )

    def _generated(self, model: Model, sample: PathSample, condition: Condition) -> tuple[Point, Point]:
        """Noise at t = 0, and the student's one step from it, noised anew to the times of the pairs."""
        assert sample.keys is not None
        z, noise = (keyed_normal(sample.x_t, sample.keys, number) for number in (0, 1))
        start = z, torch.zeros_like(sample.t)
        with not_learning(model):
            (first,) = at_points(model, condition, start)
        t = per_value(sample.t.to(z.dtype), z)
        return start, (torch.lerp(noise, z + first, t), sample.t)

    def _compared(
        self, model: Model, condition: Condition, *points: tuple[Point, float]
    ) -> list[tuple[Tensor, Tensor]]:
        """The student's mean velocity and its target at each point; each point comes with the teacher's guidance."""
        steps = [
            TeacherStep.taken(self._reference, point, condition, guidance=guidance, longest=self.step)
            for point, guidance in points
        ]
        places = [place for (point, _), step in zip(points, steps, strict=True) for place in (point, step.end)]
        means = at_points(model, condition, *places)
        return [
            (mean, step.velocity + self._change(step, later - mean))
            for step, mean, later in zip(steps, means[::2], means[1::2], strict=True)
        ]

    def _change(self, step: TeacherStep, difference: Tensor) -> Tensor:
        """The term (1 - t) D of the target, from the change of the mean velocity over a step."""
        if not self.normalise:
            return step.steps_left * difference
        norm = difference.flatten(1).norm(dim=1).view_as(step.length) + LEAST_NORM * step.length
        return step.left * difference / norm.clamp(min=torch.finfo(norm.dtype).tiny)


class ConsistencyDistillation(Distillation):
    """The squared change of the estimated data over a short step of a teacher.

    |x_t + (1 - t) u(x_t, t) - x_s - (1 - s) u(x_s, s)|^2, where a short step of the teacher leads from x_t to x_s; the
    second estimate has no gradient and is of the network in evaluation mode. Song et al., "Consistency Models", arXiv
    2303.01469, equation 7, whose target network is here the network itself.
    """

    kind: Literal["consistency_distillation"] = "consistency_distillation"
    teacher: ReferenceConfig
    """The run whose flow is distilled; the student begins with its weights, see model.init_from."""
    step: float = Field(default=0.01, gt=0, lt=1)
    """Length of the step in time."""
    weighted: bool = True
    """Whether the gradient keeps the weight (1 - t) step of the velocities; false: divide by it. What is left then is
    velocity_distillation without the term on the student's samples, but for a difference of the order of the step."""
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Classifier-free guidance of the teacher. The student learns it, and is itself drawn from with guidance 1."""

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        begin = sample.x_t, sample.t
        step = TeacherStep.taken(self._reference, begin, condition, guidance=self.guidance, longest=self.step)
        with not_learning(model):
            (later,) = at_points(model, condition, step.end)
            end = step.end[0] + (step.left - step.length) * later
        (mean,) = at_points(model, condition, begin)
        squares = (sample.x_t + step.left * mean - end).square()
        terms = {"consistency_residual": squares.detach().mean()}
        if self.weighted:
            return LossTerms(squares, terms)
        weight = (step.left * step.length).clamp(min=torch.finfo(squares.dtype).tiny)
        return LossTerms(squares / weight, terms)
