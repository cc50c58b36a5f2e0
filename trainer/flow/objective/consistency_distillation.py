"""Distillation of a flow into a map to the data that is the same all along a path of the flow."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field

from netsim.foundation.run_reference import ReferenceConfig
from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.passes import at_points, not_learning
from trainer.flow.objective.protocol import FrozenFlow, LossTerms, Model, Objective
from trainer.flow.objective.teacher_step import TeacherStep
from trainer.flow.path.protocol import PathSample


class ConsistencyDistillationConfig(Section):
    """The squared change of the estimated data over a short step of a teacher."""

    kind: Literal["consistency_distillation"] = "consistency_distillation"
    teacher: ReferenceConfig
    """The run whose flow is distilled; the student begins with its weights, see model.init_from."""
    step: float = Field(default=0.01, gt=0, lt=1)
    """Length of the step in time."""
    weighted: bool = True
    """false: divide by the weight (1 - t) step of the velocities in the gradient. What is left is velocity_distillation
    without the term on the student's samples, but for a difference of the order of the step."""
    guidance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Classifier-free guidance of the teacher. The student learns it, and is itself drawn from with guidance 1."""


class ConsistencyDistillation(Objective):
    """|x_t + (1 - t) u(x_t, t) - x_s - (1 - s) u(x_s, s)|^2, where a short step of the teacher leads from x_t to x_s.

    The second estimate of the data has no gradient and is of the network in evaluation mode.

    Source: Song et al., "Consistency Models", arXiv 2303.01469, equation 7, whose target network is here the network
    itself.

    Args:
        teacher: the flow that is distilled.
        config: step, weight and guidance.
    """

    def __init__(self, teacher: FrozenFlow, config: ConsistencyDistillationConfig) -> None:
        self.teacher, self.config = teacher, config

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """See `Objective.loss`; the term is the mean squared change, whatever the weight."""
        begin, config = (sample.x_t, sample.t), self.config
        step = TeacherStep.taken(self.teacher, begin, condition, guidance=config.guidance, longest=config.step)
        with not_learning(model):
            (later,) = at_points(model, condition, step.end)
            end = step.end[0] + (step.left - step.length) * later
        (mean,) = at_points(model, condition, begin)
        squares = (sample.x_t + step.left * mean - end).square()
        terms = {"consistency_residual": squares.detach().mean()}
        if config.weighted:
            return LossTerms(squares, terms)
        weight = (step.left * step.length).clamp(min=torch.finfo(squares.dtype).tiny)
        return LossTerms(squares / weight, terms)
