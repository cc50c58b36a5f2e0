"""The error of velocities from source points that the network itself makes of captions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from trainer.flow.condition import Condition, per_value
from trainer.flow.objective.protocol import BuiltIn, LossTerms
from trainer.flow.path.protocol import PathSample
from trainer.flow.question import FromSource

SOFTNESS = 0.3
"""Factor of a mean in the soft penalty: means below 1 / SOFTNESS cost little."""


class EncodedSource(BuiltIn):
    """The squared error of the velocity from what an encoder makes of a caption, beside two terms for the encoder.

    Mean over D of (v(x_t, t) - (x_1 - x_0))^2 + contrastive InfoNCE(x_0, P x_1) + divergence KL(encoder | N(0, 1)),
    the divergence a sum over D.

    x_0 = mean + deviation noise, with gradients. The contrastive term keeps captions apart, by cosines with a learned
    projection P of the data of the micro batch. The divergence keeps the source points of a caption from collapsing to
    a single point. A row without a caption (model.label_dropout) keeps its source point and gets the data point of the
    next row: the network then learns velocities from it to any data, and guidance leads away from these.

    Source: Liu et al., "Flowing from Words to Pixels: A Noise-Free Framework for Cross-Modality Evolution", arXiv
    2412.15213 (CrossFlow), with the terms of the published code. There the rows without a caption exchange data points
    among themselves, so that a single one keeps its own.
    """

    kind: Literal["encoded_source"] = "encoded_source"
    divergence: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    """Weight of the divergence, a sum over the values of a state beside an error that is a mean over them. Larger: more
    varied images of a caption, fewer of which are what it says."""
    mean_penalty: Literal["square", "soft6"] = "square"
    """Penalty of a mean m in the divergence. square: m^2; soft6: (0.3 m)^6, which leaves means below 3 free."""
    contrastive: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the term that tells the captions of a micro batch apart. It depends on the size of the micro batch,
    which optim.micro_batch keeps when the number of ranks changes."""

    def loss(self, model: Callable[..., Any], sample: PathSample, condition: Condition) -> LossTerms:
        """`sample.x_0` is the noise of the source points."""
        assert self._inputs.path is not None
        assert condition.label is not None
        captioned = per_value(condition.label == 0, sample.x_1)
        x_1 = torch.where(captioned, sample.x_1, sample.x_1.roll(-1, 0))
        c = self._inputs.path.coefficients(sample.t).broadcast(x_1)
        question = FromSource(sample.x_1, lambda x_0: c.a * x_0 + c.b * x_1)
        predicted, x_0, likenesses, mean, *log_variance = model(sample.x_0, sample.t, condition, question)
        terms = {
            "velocity_error": (predicted - (c.da * x_0 + c.db * x_1)).square().flatten(1).mean(1),
            "contrastive": _contrastive(likenesses),
            "divergence": self._divergence(mean, *log_variance),
        }
        values = terms["velocity_error"] + self.contrastive * terms["contrastive"]
        values = values + self.divergence * terms["divergence"]
        return LossTerms(values, {name: term.detach().mean() for name, term in terms.items()})

    def _divergence(self, mean: Tensor, log_variance: Tensor | None = None) -> Tensor:
        """Divergence [B] of each example's normals from the standard one; up to a constant if variances are fixed."""
        penalty = mean.square() if self.mean_penalty == "square" else (SOFTNESS * mean) ** 6
        if log_variance is not None:
            penalty = penalty + log_variance.exp() - 1 - log_variance
        return 0.5 * penalty.flatten(1).sum(1)


def _contrastive(likenesses: Tensor) -> Tensor:
    """InfoNCE [B]: mean cross-entropy of the diagonal of [B, B] among the columns of a row and the rows of a column."""
    own = torch.arange(len(likenesses), device=likenesses.device)
    both = (functional.cross_entropy(one, own, reduction="none") for one in (likenesses, likenesses.T))
    return 0.5 * sum(both, start=likenesses.new_zeros(()))
