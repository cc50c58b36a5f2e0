"""Costs between points, and costs from the logits of a network.

Shape suffixes: N points or rows, M points or columns, D width.
"""

import torch
from torch import Tensor


def squared_euclidean(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """Squared distances [..., N, M] of points [..., N, D] and [..., M, D]."""
    x, y = _centred(x_ND, y_MD)
    return (x.square().sum(-1)[..., :, None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT).clamp_min(0)


def euclidean(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """Distances [..., N, M] of points [..., N, D] and [..., M, D]."""
    return torch.cdist(*_centred(x_ND, y_MD))


def cosine(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """One minus the cosine of the angle, 0 to 2, [..., N, M], between points [..., N, D] and [..., M, D]."""
    x, y = (torch.nn.functional.normalize(points, dim=-1) for points in (x_ND, y_MD))
    return 1 - x @ y.mT


def negative_log_probabilities(logits_NM: Tensor) -> Tensor:
    """Minus the logarithm of the softmax over columns, at least 0, [..., N, M]."""
    return -logits_NM.log_softmax(-1)


def spread(cost_NM: Tensor) -> Tensor:
    """Returns the scale of a cost that matters to a plan between fixed sums, at least 0, [...].

    It is the standard deviation of the costs less the means of their rows and columns. A constant added to a row or a
    column does not change such a plan, so that neither the mean of the costs nor points of different lengths count.
    """
    rest = cost_NM - cost_NM.mean(-1, keepdim=True)
    return (rest - rest.mean(-2, keepdim=True)).square().mean((-2, -1)).sqrt()


def negative_logits(logits_NM: Tensor) -> Tensor:
    """Minus the logits [..., N, M] over their standard deviation, so that one gamma serves a whole training.

    The deviation is a constant to autograd, and logits that are all equal stay as they are.
    """
    deviation = logits_NM.detach().std((-2, -1), correction=0, keepdim=True)
    return -logits_NM / torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _centred(x_ND: Tensor, y_MD: Tensor) -> tuple[Tensor, Tensor]:
    """Subtracts the mean of the first points from both sets: distances stay equal, and their rounding errors shrink."""
    origin = x_ND.mean(-2, keepdim=True).detach()
    return x_ND - origin, y_MD - origin
