"""The cross-entropy of predicted letters."""

from __future__ import annotations

from typing import Literal

from torch.nn import functional

from trainer.flow.condition import Condition
from trainer.flow.objective.protocol import BuiltIn, LossTerms, Model
from trainer.flow.path.protocol import PathSample


class CrossEntropy(BuiltIn):
    """The cross-entropy of predicted logits and the letters of a sequence; nothing to set.

    Mean over places of -log softmax(logits)_letter, least where the network gives the distribution of each letter at
    the state.

    Source: Stark et al., "Dirichlet Flow Matching with Applications to DNA Sequence Design", arXiv 2402.05841, equation
    4.
    """

    kind: Literal["cross_entropy"] = "cross_entropy"

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """Values [B, *rest] of states [B, V, *rest]."""
        logits = model(sample.x_t, sample.t, condition).float()
        return LossTerms(functional.cross_entropy(logits, sample.x_1.argmax(1), reduction="none"), {})
