"""The reward of examples that look like the class that was asked for.

Shape suffixes: N training examples, B batch, D values of an example, C classes.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.flow.condition import Condition
from trainer.flow.reward.protocol import Reward, RewardInputs

GRID = 2.0**-12
"""What weights are rounded to. The fit ends a billion times closer to its one optimum, so that machines whose
sums differ in the last digits end with the same bits."""
TOLERANCE = 1e-13
"""Largest slope of the fitted loss at its end, which Newton steps pass by far."""


class ClassifierConfig(Section):
    """Log-probability of the class that was asked for, by a classifier of the training examples."""

    kind: Literal["classifier"] = "classifier"
    ridge: float = Field(default=1e-3, gt=0)
    """Penalty on the squares of its weights: larger values make it less sure, and its reward smoother."""


class Classifier(Reward):
    """log p(class asked | example) of a multinomial logistic regression of centred and scaled examples.

    Where no class was asked for, it is the log-probability of the likeliest one.
    """

    def __init__(self, weight_CD: Tensor, bias_C: Tensor, centre_D: Tensor, scale: Tensor) -> None:
        self.weight_CD, self.bias_C, self._centre_D, self._scale = weight_CD, bias_C, centre_D, scale

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        """Differentiable; a ValueError if the condition holds no classes."""
        if condition.label is None:
            raise ValueError("kind: classifier rewards the class that was asked for, and none is; ask for classes")
        log_BC = self.log_probabilities(examples)
        log_BC = torch.cat([log_BC, log_BC.amax(1, keepdim=True)], dim=1)
        return log_BC.gather(1, condition.label[:, None])[:, 0]

    def log_probabilities(self, examples: Tensor) -> Tensor:
        """The logarithms of the probabilities of all classes, [B, C], of examples [B, *shape]."""
        if self.bias_C.device != examples.device:
            parts = (self.weight_CD, self.bias_C, self._centre_D, self._scale)
            self.weight_CD, self.bias_C, self._centre_D, self._scale = (
                to_device(part, examples.device) for part in parts
            )
        values_BD = (examples.flatten(1).float() - self._centre_D) / self._scale
        return torch.nn.functional.linear(values_BD, self.weight_CD, self.bias_C).log_softmax(1)


def fitted(config: ClassifierConfig, inputs: RewardInputs) -> Classifier:
    """Learns to tell the classes of the training examples apart.

    The loss is strictly convex. It is minimised in float64 on the CPU far beyond the grid that the weights are rounded
    to, so that every rank, and a resumed run on another machine, has the same classifier.

    Raises:
        ValueError: there are no classes, a class has no examples, or all examples are equal.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # nearly a second to import

    if inputs.num_classes < 2:
        raise ValueError(
            f"kind: classifier tells classes apart, and the data have {inputs.num_classes}; use data with classes, or "
            "reward ink, distance or one of your own"
        )
    examples, labels = inputs.labelled()
    counts = labels.bincount(minlength=inputs.num_classes)
    if int(counts.min()) == 0:
        missing = int(counts.argmin())
        raise ValueError(f"kind: classifier has no training example of class {missing}; bring some, or drop the class")
    values_ND = examples.flatten(1).double()
    centre_D = values_ND.mean(0)
    scale = (values_ND - centre_D).square().mean().sqrt()
    if not float(scale) > 0:
        raise ValueError("kind: classifier cannot tell training examples apart that are all equal; correct the data")
    model = LogisticRegression(C=1 / (config.ridge * len(values_ND)), solver="newton-cg", tol=TOLERANCE, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)  # the last digits of a line search
        model.fit(((values_ND - centre_D) / scale).numpy(), labels.numpy())
    weight_CD, bias_C = torch.as_tensor(model.coef_), torch.as_tensor(model.intercept_)
    if len(weight_CD) == 1:  # one logit for two classes
        weight_CD, bias_C = torch.cat([-weight_CD, weight_CD]) / 2, torch.cat([-bias_C, bias_C]) / 2
    weight_CD, bias_C = ((part - part.mean(0)).div(GRID).round().mul(GRID).float() for part in (weight_CD, bias_C))
    return Classifier(weight_CD, bias_C, centre_D.float(), scale.float())
