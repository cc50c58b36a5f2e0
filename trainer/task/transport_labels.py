"""Labels that a transport plan between examples and clusters gives.

Shape suffixes: N examples, K clusters, M clusters and, where some mass is left out, a last column for it; leading
dimensions are problems of their own.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moe.host_copies import to_device
from moe.ot import sinkhorn
from trainer.config.task.representation import SemanticLabels, UniformLabels

LARGEST_COST = 30.0
"""Upper bound of costs; clusters that are even less likely have no effect."""
COLD = 4
"""Factor of the iterations of a plan that starts without an earlier plan's potentials."""
HALVINGS = 60
"""Bisections of a potential's bracket, enough for float64."""
STEPS = (0.0, 0.1, 0.3, 0.6, 1.0)
"""Lengths of the step from one plan towards the next that are tried."""


class Labelled(NamedTuple):
    """Labels, the objective that they minimise, and potentials from which a later plan may start.

    Attributes:
        labels: [..., N, K], whose rows sum to the plan's certainty of each example, at most 1; all are in float64.
        objective: [...] its value for the last plan.
        first_objective: [...] its value for the first plan, which the rounds lower.
        potentials: of the columns, [..., M].
    """

    labels: Tensor
    objective: Tensor
    first_objective: Tensor
    potentials: Tensor


@torch.no_grad()
def labelled(
    logits: Tensor, features: Tensor, settings: UniformLabels, progress: float, start: Tensor | None = None
) -> Labelled:
    """Labels of examples with logits [..., N, K] and features [..., N, W] after a share `progress` of the run.

    Minimises <Q, C> - w <S, Q Q'> + price KL(Q'1 | mass / K) + epsilon <T, log T> over plans Q of some mass with rows
    of at most 1 / N, C the negative log-probabilities, S the graph of neighbours and T the plan with what is left out.
    `start` are potentials of an earlier plan for the same clusters. Plans are computed in float64, since sizes of
    clusters amplify the rounding of float32 by a hundred; the host waits for no device.
    """
    num, clusters = logits.shape[-2:]
    cost = (-logits.double().log_softmax(-1)).clamp(max=LARGEST_COST)
    problem = _Problem(settings, cost, settings.mass(progress))
    plan, potentials = problem.solved(cost, start)
    if not isinstance(settings, SemanticLabels):
        objective = problem.objective(cost, plan)
        return Labelled(num * plan[..., :clusters], objective, objective, potentials)
    graph = neighbours(features.double(), settings.neighbours)
    graph = settings.attraction * num * (1 - problem.mass) * (graph + graph.mT)
    pulled = graph @ plan[..., :clusters]
    first = problem.objective(cost, plan) - (plan[..., :clusters] * pulled).sum((-2, -1)) / 2
    objective = first
    for _ in range(settings.rounds):
        following, potentials = problem.solved(cost - pulled, potentials)
        plan, pulled, objective = _damped(problem, cost, graph, plan, pulled, following)
    return Labelled(num * plan[..., :clusters], objective, first, potentials)


def neighbours(features: Tensor, num: int) -> Tensor:
    """Graph [..., N, N]: cosines of each of the centred features [..., N, W] with its `num` nearest others, else 0."""
    directions = functional.normalize(features - features.mean(-2, keepdim=True), dim=-1)
    cosines = directions @ directions.mT
    cosines.diagonal(dim1=-2, dim2=-1).fill_(-math.inf)
    nearest = cosines.topk(num, dim=-1)
    return torch.zeros_like(cosines).scatter(-1, nearest.indices, nearest.values.clamp_min(0))


class _Problem:
    """The convex part of the objective: rows sum to 1 / N, sizes have a price, a free column takes the rest."""

    def __init__(self, settings: UniformLabels, cost: Tensor, mass: float) -> None:
        num, clusters = cost.shape[-2:]
        self.mass, self._settings, self._clusters, self._num = mass, settings, clusters, num
        self._partial = mass < 1
        left = [1 - mass] * self._partial
        sizes = torch.tensor([mass / clusters] * clusters + left, dtype=cost.dtype)
        prices = torch.tensor([settings.price] * clusters + [math.inf] * len(left), dtype=cost.dtype)
        self._rows = cost.new_full(cost.shape[:-1], 1 / num)
        self._sizes = to_device(sizes, cost.device).expand(*cost.shape[:-2], -1)
        self._prices = to_device(prices, cost.device)

    def solved(self, cost: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """The plan [..., N, M] for a cost [..., N, K], with exact rows and mass, and its potentials [..., M]."""
        warm = start is not None and start.shape[-1] == len(self._prices)
        columns = functional.pad(cost, (0, 1)) if self._partial else cost
        found = sinkhorn(
            columns,
            self._rows,
            self._sizes,
            epsilon=self._settings.epsilon,
            column_weight=self._prices,
            reference="uniform",
            warm_start=(self._rows, self._balanced(cost, start if warm and start is not None else self._sizes * 0)),
            tolerance=0,
            max_iterations=self._settings.iterations * (1 if warm else COLD),
        )
        potentials = self._balanced(cost, found.potentials[1])
        return ((potentials[..., None, :] - columns) / self._settings.epsilon).softmax(-1) / self._num, potentials

    def objective(self, cost: Tensor, plan: Tensor) -> Tensor:
        """The objective of plans [..., N, M], without the term of the neighbours."""
        labels, price = plan[..., : self._clusters], self._settings.price
        found = (cost * labels).sum((-2, -1)) + self._settings.epsilon * torch.xlogy(plan, plan).sum((-2, -1))
        if math.isinf(price):
            return found
        sizes, wanted = labels.sum(-2), self.mass / self._clusters
        return found + price * (torch.xlogy(sizes, sizes / wanted) - sizes + wanted).sum(-1)

    def _balanced(self, cost: Tensor, potentials: Tensor) -> Tensor:
        """Sets the last of the potentials [..., M] so that, with exact rows, the mass left out is exact.

        Sinkhorn's own updates of it are slow: each moves little mass where little mass is labelled.
        """
        if not self._partial:
            return potentials
        epsilon = self._settings.epsilon
        clusters = potentials[..., : self._clusters]
        scores = ((clusters[..., None, :] - cost) / epsilon).logsumexp(-1)
        middle = math.log(self.mass / (1 - self.mass))
        low, high = scores.amin(-1) - middle, scores.amax(-1) - middle
        for _ in range(HALVINGS):
            tried = (low + high) / 2
            labels_more = (scores - tried[..., None]).sigmoid().mean(-1) > self.mass
            low, high = torch.where(labels_more, tried, low), torch.where(labels_more, high, tried)
        return torch.cat([clusters, (epsilon * (low + high) / 2)[..., None]], dim=-1)


def _damped(
    problem: _Problem, cost: Tensor, graph: Tensor, before: Tensor, pulled: Tensor, after: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Takes the longest step to the next plan that does not raise the objective; also the new pull and objective.

    The next plan minimises a majoriser only where the graph has no negative eigenvalue. The step of least objective is
    not taken: where two steps are equally good, rounding would decide.
    """
    clusters = cost.shape[-1]
    step = (after - before)[..., :clusters]
    pulled_step = graph @ step
    constant, linear, square = (
        (one[..., :clusters] * other).sum((-2, -1))
        for one, other in ((before, pulled), (step, pulled), (step, pulled_step))
    )
    lengths = to_device(torch.tensor(STEPS, dtype=cost.dtype), cost.device).view(-1, *[1] * before.ndim)
    short = lengths[..., 0, 0]
    attraction = constant / 2 + short * linear + short**2 * square / 2
    objectives = problem.objective(cost, torch.lerp(before, after, lengths)) - attraction
    lowers = (objectives <= objectives[:1]).flip(0).int()
    chosen = len(STEPS) - 1 - lowers.argmax(0)
    length = lengths.flatten()[chosen][..., None, None]
    return torch.lerp(before, after, length), pulled + length * pulled_step, objectives.gather(0, chosen[None])[0]
