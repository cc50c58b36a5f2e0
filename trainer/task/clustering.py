"""Clustering: each view of an example learns the cluster label that a transport plan gives the other view.

Shape suffixes: B examples of a micro batch, N of a plan, K clusters, M clusters and, where mass is left out, a last
column for it, W features; V the two views. Leading dimensions of a plan are problems of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

import trainer.data
from moe.host_copies import to_device
from moe.ot import sinkhorn
from trainer.config.model import PrototypesConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.task import ClusteringTaskConfig
from trainer.config.task.representation import SemanticLabels, UniformLabels
from trainer.data import SPLITS, Batch, Dataset
from trainer.evaluation.clustering import ClusteringMeasurement, centres, clustered
from trainer.evaluation.few_shot import in_words
from trainer.flow.coupling.protocol import gathered
from trainer.flow.objective import LossTerms
from trainer.model.build import build_model
from trainer.model.representation import Prototypes
from trainer.observe.measurement import MeasurementSpec, Progress
from trainer.sampling.preview import preview_groups
from trainer.training.task import Builders, MicroBatchTask, Networks

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
        solution = sinkhorn(
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
        potentials = self._balanced(cost, solution.potentials[1])
        return ((potentials[..., None, :] - columns) / self._settings.epsilon).softmax(-1) / self._num, potentials

    def objective(self, cost: Tensor, plan: Tensor) -> Tensor:
        """The objective of plans [..., N, M], without the term of the neighbours."""
        labels, price = plan[..., : self._clusters], self._settings.price
        values = (cost * labels).sum((-2, -1)) + self._settings.epsilon * torch.xlogy(plan, plan).sum((-2, -1))
        if math.isinf(price):
            return values
        sizes, wanted = labels.sum(-2), self.mass / self._clusters
        return values + price * (torch.xlogy(sizes, sizes / wanted) - sizes + wanted).sum(-1)

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


SHOWN, MOST_COLUMNS = 1000, 20
"""Held-out images that are clustered for a picture, and its columns at most."""
MOST_MEASURED = 20_000
"""Examples of a split that are measured."""


class DrawnViews(NamedTuple):
    """Both views [2 B, *D] of a micro batch and, once collected, their soft cluster labels [2 B, K]."""

    log_weight: None
    views: Tensor
    sources: Tensor | None = None
    labels: Tensor | None = None
    figures: Mapping[str, Tensor] | None = None


class ClusteringTask(MicroBatchTask[DrawnViews]):
    """Cross-entropy of each view with the soft label of the other; a label sums to the plan's certainty of the example.

    One plan covers the examples of a cycle on all ranks, and is the same on every rank.
    """

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config.task, ClusteringTaskConfig)
        assert isinstance(config.model, PrototypesConfig)
        self.config, self.settings = config, config.task
        self.settings.views.check_examples(config.state_shape)
        self.cycle = self.settings.cycle
        self._plans = max(1, config.optim.steps // self.cycle)
        self.load(None)

    def first_weights(self, dataset: Dataset) -> Mapping[str, Tensor]:
        model = self.config.model
        assert isinstance(model, PrototypesConfig)
        if model.begin == "drawn":
            return {}
        begun = [torch.empty(0)]
        if dist.get_rank() == 0:
            network = build_model(self.config, plan_layout(self.config, 1))
            assert isinstance(network, Prototypes)
            examples = dataset.get(trainer.data.first_data_points(dataset, "train", MOST_MEASURED)).x_1
            begun = [k_means_prototypes(network, examples, self.config.run.seed)]
        dist.broadcast_object_list(begun)
        return {"prototypes.weight": begun[0]}

    def draw_one(self, batch: Batch, generator: torch.Generator) -> DrawnViews:
        views = torch.cat(self.settings.views.pair(batch.x_1, generator))
        return DrawnViews(None, views, batch.sources)

    def collect(
        self, drawn: Sequence[DrawnViews], networks: Networks, ranks: dist.ProcessGroup | None = None
    ) -> list[DrawnViews]:
        with networks.average() as model:
            answers = [model(one.views) for one in drawn]
        logits_VNK, features_VNW = (
            torch.cat([part.unflatten(0, (2, -1)) for part in parts], dim=1) for parts in zip(*answers, strict=True)
        )
        own = slice(0, logits_VNK.shape[1])
        if ranks is not None:
            first = ranks.rank() * own.stop
            own = slice(first, first + own.stop)
            logits_VNK, features_VNW = (
                gathered(values, ranks).transpose(0, 1).flatten(1, 2) for values in (logits_VNK, features_VNW)
            )
        num = logits_VNK.shape[1]
        logits_VNK, features_VNW = self._with_memory(logits_VNK, features_VNW)
        labelled_views = labelled(
            logits_VNK, features_VNW, self.settings.labels, self._taken / self._plans, self._potentials
        )
        self._taken, self._potentials = self._taken + 1, labelled_views.potentials
        labels_VNK = labelled_views.labels[:, :num][:, own].flip(0).float()
        figures = {
            "plan_mass": labelled_views.labels.sum(-1).mean(),
            "plan_objective": labelled_views.objective.mean(),
            "first_plan_objective": labelled_views.first_objective.mean(),
            "largest_cluster": labelled_views.labels.sum(-2).amax(-1).mean()
            / labelled_views.labels.sum((-2, -1)).mean(),
        }
        pieces = labels_VNK.split([len(one.views) // 2 for one in drawn], dim=1)
        return [
            one._replace(labels=labels.flatten(0, 1), figures=figures)
            for one, labels in zip(drawn, pieces, strict=True)
        ]

    def loss(self, model: Callable[..., Any], drawn: DrawnViews) -> LossTerms:
        assert drawn.labels is not None, "examples are learned from once they are labelled"
        logits, _ = model(drawn.views)
        loss = -(drawn.labels * logits.log_softmax(-1)).sum(-1)
        return LossTerms(loss.unflatten(0, (2, -1)).mean(0), terms=dict(drawn.figures or {}))

    def examine(self, model: Callable[..., Any], drawn: DrawnViews) -> Mapping[str, Tensor]:
        """Cross-entropy of each view's prediction with the other's, and whether both views are in one cluster."""
        logits_VBK = model(drawn.views)[0].unflatten(0, (2, -1))
        swapped = -(logits_VBK.softmax(-1).flip(0) * logits_VBK.log_softmax(-1)).sum(-1).mean(0)
        first, second = logits_VBK.argmax(-1)
        return {"held_out_loss": swapped, "held_out_agreement": (first == second).float()}

    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:  # noqa: ARG002
        dataset = trainer.data.build(self.config.data)
        images = dataset.get(trainer.data.first_data_points(dataset, "held_out", SHOWN)).x_1
        with networks.average() as model:
            clusters = model(images.to(next(model.parameters()).device))[0].argmax(-1).cpu()
        if dist.get_rank() == 0:
            assert isinstance(self.config.model, PrototypesConfig)
            headings = tuple(map(str, range(min(self.config.model.clusters, MOST_COLUMNS))))
            preview_groups(self.config, images, clusters, headings, stem.with_suffix(".png"))

    def measure(self, networks: Networks, spec: MeasurementSpec, progress: Progress) -> ClusteringMeasurement:
        """Clusters of training and held-out examples, beside their classes and k-means."""
        data = self.config.data
        if not data.num_classes:
            raise ValueError("run_dir: its examples have no classes to judge clusters by; see its samples, by cluster")
        dataset, splits = trainer.data.build(data), {}
        with networks.average() as model:
            device = next(model.parameters()).device

            def answer(examples: Tensor) -> tuple[Tensor, Tensor]:
                logits, features = model(examples.to(device))
                return logits.cpu(), features.cpu()

            for split in SPLITS:
                name = "training" if split == "train" else "held out"
                progress(f"clustering {name} examples")
                batch = dataset.get(trainer.data.first_data_points(dataset, split, MOST_MEASURED))
                assert batch.labels is not None
                splits[name] = clustered(batch.x_1, batch.labels, answer, data.num_classes, seed=spec.seed)
        names = data.class_names or tuple(map(str, range(data.num_classes)))
        return ClusteringMeasurement(spec.checkpoint, in_words(data), splits, names)

    def state(self) -> dict[str, Any]:
        return {"taken": self._taken, "potentials": self._potentials, "memory": self._memory}

    def load(self, state: dict[str, Any] | None) -> None:
        state = state or {"taken": 0, "potentials": None, "memory": None}
        self._taken, self._potentials, self._memory = state["taken"], state["potentials"], state["memory"]

    def _with_memory(self, logits_VNK: Tensor, features_VNW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features for a plan: new examples first, then those of earlier plans as stored."""
        kept = logits_VNK.shape[1] * self.settings.memory
        if not kept:
            return logits_VNK, features_VNW
        together = logits_VNK, features_VNW
        if self._memory is not None:
            together = tuple(
                torch.cat([new, old.to(new)], dim=1) for new, old in zip(together, self._memory, strict=True)
            )
        self._memory = tuple(values[:, :kept].contiguous() for values in together)
        logits, features = together
        return logits, features


@torch.no_grad()
def k_means_prototypes(network: Prototypes, examples: Tensor, seed: int) -> Tensor:
    """Means [K, W] of the clusters that k-means finds among a network's features of examples [N, *D]."""
    features_NW = torch.cat([network.features(part) for part in examples.split(1000)])
    return centres(features_NW, len(network.prototypes.weight), seed)


TASKS: Builders = {ClusteringTaskConfig: ClusteringTask}
