"""Clustering: each view of an example learns the cluster label that a transport plan gives the other view.

Shape suffixes: B examples of a micro batch, N of a plan, K clusters, W features; V the two views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import trainer.data
from trainer.config.model import PrototypesConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.task import ClusteringTaskConfig
from trainer.data import SPLITS, Batch, Dataset
from trainer.evaluation.clustering import ClusteringMeasurement, centres, clustered
from trainer.evaluation.few_shot import in_words
from trainer.flow.coupling.protocol import gathered
from trainer.flow.objective import LossTerms
from trainer.model.build import build_model
from trainer.model.representation import Prototypes
from trainer.observe.measurement import MeasurementSpec, Progress
from trainer.sampling.preview import preview_groups
from trainer.task.transport_labels import labelled
from trainer.training.task import Builders, MicroBatchTask, Networks

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
        found = labelled(logits_VNK, features_VNW, self.settings.labels, self._taken / self._plans, self._potentials)
        self._taken, self._potentials = self._taken + 1, found.potentials
        labels_VNK = found.labels[:, :num][:, own].flip(0).float()
        figures = {
            "plan_mass": found.labels.sum(-1).mean(),
            "plan_objective": found.objective.mean(),
            "first_plan_objective": found.first_objective.mean(),
            "largest_cluster": found.labels.sum(-2).amax(-1).mean() / found.labels.sum((-2, -1)).mean(),
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
