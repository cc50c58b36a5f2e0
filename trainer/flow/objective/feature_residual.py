"""The error of features within a segment of time that are approximated from those at its start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.protocol import LossTerms, Objective
from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.question import Approximation


class FeatureResidualConfig(Section):
    """The squared error of approximated features; only the residual network is trained."""

    kind: Literal["feature_residual"] = "feature_residual"


class FeatureResidual(Objective):
    """Mean over tokens and width of (features(x_s, s) + share residual(x_t, t) - features(x_t, t))^2.

    s is the first time of the segment of t, and x_s the state of the same pair at s.

    Source: Park et al., "Blockwise Flow Matching", arXiv 2510.21167, section 3.3.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        """The term is the error divided by the mean square of the true features."""

        def states_at(t: Tensor) -> Tensor:
            c = self.path.coefficients(t).broadcast(sample.x_1)
            return c.a * sample.x_0 + c.b * sample.x_1 + c.g * sample.noise

        approximated, true = model(sample.x_t, sample.t, condition, Approximation(states_at))
        errors = (approximated.float() - true.float()).square()
        return LossTerms(errors, {"feature_relative_error": errors.detach().mean() / true.float().square().mean()})
