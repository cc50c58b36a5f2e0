"""A regression that also aligns the features of a network with those of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.objective.protocol import LossTerms, Objective
from trainer.flow.objective.regression import Config as ErrorConfig
from trainer.flow.objective.regression import Regression, RegressionConfig, SquaredConfig
from trainer.flow.path.protocol import PathSample
from trainer.flow.question import WithProjection
from trainer.flow.target import Target

Teacher = Callable[[Tensor], Tensor]
"""From data [B, *D] to features: [B, F] of an example, or [B, F, rows, columns] of the patches of an image."""


class AlignedConfig(Section):
    """The mean error of the prediction, minus the similarity of the network's features to a teacher's of the data."""

    kind: Literal["aligned"] = "aligned"
    teacher: Path
    """A feature extractor in a safetensors file, such as the features verb writes."""
    weight: float = Field(default=0.05, gt=0, allow_inf_nan=False)
    """Weight of the similarity, which is a cosine."""
    error: ErrorConfig = SquaredConfig()
    """Error of a difference between prediction and target."""


class Aligned(Objective):
    """Mean error - weight x mean over tokens of cos(projected features at x_t, the teacher's features of x_1).

    A single vector of an example is compared with all of its tokens.

    Source: Park et al., "Blockwise Flow Matching", arXiv 2510.21167, section 3.2; after Yu et al., "Representation
    Alignment for Generation", arXiv 2410.06940, equation 8.
    """

    def __init__(self, target: Target, teacher: Teacher, config: AlignedConfig) -> None:
        self.regression = Regression(target, RegressionConfig(error=config.error))
        self.teacher, self.weight = teacher, config.weight

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        """The terms are the mean error and the mean cosine."""
        prediction, projected = model(sample.x_t, sample.t, condition, WithProjection())
        regression = self.regression.loss(lambda *_: prediction, sample, condition)
        cosine = alignment(projected, self.teacher(sample.x_1))
        terms = {"prediction_error": regression.mean().detach(), "feature_cosine": cosine.mean().detach()}
        return LossTerms(regression.per_example - self.weight * cosine, regression.terms | terms)


def alignment(projected: Tensor, taught: Tensor) -> Tensor:
    """The mean cosine [B] over tokens of projections [B, N, F] and features [B, F] or [B, F, rows, columns]."""
    by_token = taught.flatten(2).transpose(1, 2) if taught.ndim > 2 else taught[:, None]
    return functional.cosine_similarity(projected, by_token.to(projected.dtype), dim=2).mean(1)


def tokens_of(shape: torch.Size | tuple[int, ...]) -> int | None:
    """The number of tokens that features [F, *places] of a teacher belong to; None: any number."""
    return None if len(shape) == 1 else int(torch.Size(shape[1:]).numel())
