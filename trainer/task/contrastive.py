"""Features without labels: a network's prediction for a view is matched to its moving average's for positives.

Positives are the other view, and neighbours from a memory of the last examples. The memory is computed from vectors
gathered from all ranks, and no decision on the host needs a value: it is the same on every rank, and no host waits.

Shape suffixes: B examples of a micro batch, G of all micro batches of a step, S positives, P projected values, M
examples of the memory, K clusters, N neighbours; all vectors have length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

import trainer.data
from moe.host_copies import to_device
from moe.ot import euclidean, sinkhorn
from moe.seeds import derive_seed, fold_in
from trainer.config.run import RunConfig
from trainer.config.sample import ExampleSample
from trainer.config.task.representation import ContrastiveTaskConfig, DynamicClusters, NearestNeighbours
from trainer.data import Batch
from trainer.evaluation.episodes import Episodes
from trainer.evaluation.few_shot import in_words, measure_features, played_examples
from trainer.flow.coupling.protocol import gathered_rows
from trainer.flow.objective import LossTerms
from trainer.model.representation import Contrastive
from trainer.observe.measurement import Measurement, MeasurementSpec, Progress
from trainer.sampling.conditioning import names_or_numbers
from trainer.sampling.preview import preview_groups
from trainer.training.task import Builders, MicroBatchTask, Networks

ROUNDS = 10
"""Rounds of k-means, once the memory is full."""


class Memory:
    """A ring buffer of the last examples; new ones replace the oldest."""

    def __init__(self, settings: NearestNeighbours, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self._steps = self._written = 0
        self._tensors: dict[str, Tensor] = {}

    @property
    def begun(self) -> bool:
        """Whether the memory is full and `begin` steps have passed, so that neighbours are used."""
        return self._steps >= self._settings.begin and self._written >= self._settings.memory

    def neighbours(self, queries_BP: Tensor) -> Tensor:
        """The N nearest allowed examples [B, N, P] of each vector."""
        cosines_BM = self._allowed(queries_BP, queries_BP @ self._tensors["examples"].mT)
        return self._tensors["examples"][cosines_BM.topk(self._settings.neighbours).indices]

    def write(self, new_GP: Tensor) -> None:
        """Stores the examples of a step, at most as many as the memory holds; called once a step."""
        memory = self._settings.memory
        if not self._tensors:
            self._tensors["examples"] = new_GP.new_zeros(memory, new_GP.shape[1])
        first = self._written % memory
        places = to_device((first + torch.arange(len(new_GP))) % memory, new_GP.device)
        self._put(places, new_GP)
        was_full, self._written = self._written >= memory, self._written + len(new_GP)
        self._steps += 1
        self._settle(first=not was_full)

    def figures(self) -> dict[str, Tensor]:
        """Scalars for the metrics."""
        return {}

    def state(self) -> dict[str, Any]:
        tensors = {name: values.to("cpu", copy=True) for name, values in self._tensors.items()}
        return {"steps": self._steps, "written": self._written, **tensors}

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        tensors = dict(state)
        self._steps, self._written = tensors.pop("steps"), tensors.pop("written")
        self._tensors = {name: values.to(device, copy=True) for name, values in tensors.items()}

    def _allowed(self, queries_BP: Tensor, cosines_BM: Tensor) -> Tensor:
        """The cosines, with -infinity for examples that must not be neighbours."""
        del queries_BP
        return cosines_BM

    def _put(self, places: Tensor, new_GP: Tensor) -> None:
        self._tensors["examples"][places] = new_GP

    def _settle(self, *, first: bool) -> None:
        """Completes a step; `first`: the memory was not full before."""


class ClusteredMemory(Memory):
    """Examples in clusters of about equal size; neighbours are in the nearest cluster, or anywhere if it is too small.

    The published programme exponentiates the distance itself where a plan needs its negative: the assignment here is
    that of the formula.
    """

    def __init__(self, settings: DynamicClusters, seed: int) -> None:
        super().__init__(settings, seed)
        self._settings: DynamicClusters = settings

    def figures(self) -> dict[str, Tensor]:
        """`cluster_load`: the size of the largest cluster, over the mean."""
        if "centres" not in self._tensors:
            return {}
        return {"cluster_load": self._members().sum(0).max() * self._settings.clusters / self._settings.memory}

    def _allowed(self, queries_BP: Tensor, cosines_BM: Tensor) -> Tensor:
        nearest_B = (queries_BP @ functional.normalize(self._tensors["centres"]).mT).argmax(1)
        within_BM = self._tensors["labels"] == nearest_B[:, None]
        small_B = within_BM.sum(1) <= self._settings.neighbours
        return cosines_BM.masked_fill(~(within_BM | small_B[:, None]), -torch.inf)

    def _put(self, places: Tensor, new_GP: Tensor) -> None:
        super()._put(places, new_GP)
        if "centres" in self._tensors:
            self._tensors["labels"][places] = self.assigned(new_GP)

    def assigned(self, new_GP: Tensor) -> Tensor:
        """The clusters [G] of new examples, by a transport plan that gives each cluster the same mass."""
        clusters = self._settings.clusters
        cost_GK = euclidean(new_GP, functional.normalize(self._tensors["centres"]))
        masses = cost_GK.new_full((len(new_GP),), 1 / len(new_GP)), cost_GK.new_full((clusters,), 1 / clusters)
        limits = {"tolerance": 0.0, "max_iterations": self._settings.iterations}
        return sinkhorn(cost_GK, *masses, epsilon=self._settings.epsilon, **limits).values.argmax(1)

    def _settle(self, *, first: bool) -> None:
        if self._written < self._settings.memory:
            return
        if first:
            self._cluster()
            return
        keeps = self._settings.momentum
        centres_KP = self._tensors["centres"]
        self._tensors["centres"] = keeps * centres_KP + (1 - keeps) * self._means(centres_KP)

    def _cluster(self) -> None:
        """Clusters the memory by k-means, which starts at some of the examples."""
        examples_MP = self._tensors["examples"]
        keys = fold_in(torch.tensor(derive_seed(self._seed, "clusters")), torch.arange(len(examples_MP)))
        begun = to_device(keys.argsort()[: self._settings.clusters], examples_MP.device)
        self._tensors["centres"] = examples_MP[begun]
        for _ in range(ROUNDS):
            centres_KP = self._tensors["centres"]
            self._tensors["labels"] = (examples_MP @ functional.normalize(centres_KP).mT).argmax(1)
            self._tensors["centres"] = self._means(centres_KP)

    def _means(self, otherwise_KP: Tensor) -> Tensor:
        """Means [K, P] of the clusters' examples; an empty cluster keeps its row of `otherwise_KP`."""
        members_MK = self._members()
        sizes_K1 = members_MK.sum(0)[:, None]
        means_KP = members_MK.mT @ self._tensors["examples"] / sizes_K1.clamp_min(1)
        return torch.where(sizes_K1 > 0, means_KP, otherwise_KP)

    def _members(self) -> Tensor:
        """Membership [M, K] of examples in clusters, 0 or 1 in floating point."""
        numbers = torch.arange(self._settings.clusters, device=self._tensors["labels"].device)
        return (self._tensors["labels"][:, None] == numbers).to(self._tensors["examples"].dtype)


COLUMNS = 10
"""Columns of a picture; each shows an image above those nearest to it."""
SHOWN = 1_000
"""Held-out examples among which the nearest are searched."""


class Compared(NamedTuple):
    """Unit vectors of the teacher, the moving average, with which predictions for two views are compared.

    Attributes:
        positives: [B, S, P] for the first and for the second view; the first positive is the view itself.
        others: [2 G, P] both views of all examples of the step, the first views before the second.
        rows: int64 [B] places of this micro batch among the G examples.
        figures: metrics of the memory.
    """

    positives: tuple[Tensor, Tensor]
    others: Tensor
    rows: Tensor
    figures: Mapping[str, Tensor]


class DrawnViews(NamedTuple):
    """Two views [B, C, H, W] of each example and, once collected, the vectors they are compared with."""

    log_weight: None
    views: tuple[Tensor, Tensor]
    sources: Tensor | None = None
    compared: Compared | None = None


class ContrastiveTask(MicroBatchTask[DrawnViews]):
    """The negative cosine to the positives of the other view, and the uniformity among the examples of a step.

    Poulakakis-Daktylidis and Jamali-Rad, "BECLR", ICLR 2024, section 4.1. Predictions are repelled from the teacher's
    vectors of the other examples of all ranks (as in MoCo v3), so that an example's loss does not depend on the
    division of the work. The student's projections would run away from a teacher that follows them. In the published
    programme neighbours get no prediction and no gradient, and act by uniformity alone. Here predictions are drawn to
    them.
    """

    def __init__(self, config: RunConfig) -> None:
        assert isinstance(config.task, ContrastiveTaskConfig)
        self.config, self.settings = config, config.task
        self._memory = self._new_memory()
        self._loaded: dict[str, Any] | None = None

    def draw_one(self, batch: Batch, generator: torch.Generator) -> DrawnViews:
        return DrawnViews(None, self.settings.views.pair(batch.x_1, generator), batch.sources)

    def collect(
        self, drawn: Sequence[DrawnViews], networks: Networks, ranks: dist.ProcessGroup | None = None
    ) -> list[DrawnViews]:
        with networks.average() as model:
            pairs = [_projected(model, one.views) for one in drawn]
        own = tuple(torch.cat(view) for view in zip(*pairs, strict=True))
        every = tuple(gathered_rows(view, ranks) for view in own)
        positives = tuple(view[:, None] for view in own)
        figures: Mapping[str, Tensor] = {}
        if self._memory is not None:
            self._take_up(own[0].device)
            if self._memory.begun:
                near = (self._memory.neighbours(view) for view in own)
                positives = tuple(torch.cat(both, dim=1) for both in zip(positives, near, strict=True))
            self._memory.write(every[0])
            figures = self._memory.figures()
        sizes = [len(one.views[0]) for one in drawn]
        first = 0 if ranks is None else ranks.rank() * sum(sizes)
        rows = torch.arange(first, first + sum(sizes), device=own[0].device).split(sizes)
        split = zip(*(view.split(sizes) for view in positives), strict=True)
        others = torch.cat(every)
        return [
            one._replace(compared=Compared((near_1, near_2), others, places, figures))
            for one, (near_1, near_2), places in zip(drawn, split, rows, strict=True)
        ]

    def loss(self, model: Callable[..., Any], drawn: DrawnViews) -> LossTerms:
        compared = drawn.compared
        assert compared is not None, "views are compared once they are collected"
        predicted = functional.normalize(model(torch.cat(drawn.views))[1], dim=1).chunk(2)
        others = zip(predicted, reversed(compared.positives), strict=True)
        cosines = [(one[:, None] * positives).sum(2) for one, positives in others]
        alignment = -torch.stack([one.mean(1) for one in cosines]).mean(0)
        uniformity = torch.stack([self._uniformity(one, compared) for one in predicted]).mean(0)
        terms = {
            "view_cosine": torch.stack([one[:, 0] for one in cosines]).mean(),
            "uniformity": uniformity.mean(),
            **compared.figures,
        }
        if cosines[0].shape[1] > 1:
            terms["neighbour_cosine"] = torch.stack([one[:, 1:] for one in cosines]).mean()
        loss = alignment + self.settings.uniformity * uniformity
        return LossTerms(loss, {name: value.detach() for name, value in terms.items()})

    def examine(self, model: Callable[..., Any], drawn: DrawnViews) -> Mapping[str, Tensor]:
        """The held-out loss with views alone as positives, among the examples of a micro batch."""
        own = _projected(model, drawn.views)
        rows = torch.arange(len(own[0]), device=own[0].device)
        compared = Compared((own[0][:, None], own[1][:, None]), torch.cat(own), rows, {})
        return {"held_out_loss": self.loss(model, drawn._replace(compared=compared)).per_example}

    @torch.no_grad()
    def show(self, networks: Networks, stem: Path, *, seed: int) -> None:  # noqa: ARG002
        """Writes a picture of the first held-out images, each above its nearest images."""
        sample = self.config.sample
        assert isinstance(sample, ExampleSample)
        dataset = trainer.data.build(self.config.data)
        batch = dataset.get(trainer.data.first_data_points(dataset, "held_out", SHOWN))
        with networks.average() as model:
            assert isinstance(model, Contrastive)
            device = next(model.parameters()).device
            features = torch.cat([model.features(part.to(device)).cpu() for part in batch.x_1.split(250)])
        if dist.get_rank() > 0:
            return
        columns = min(COLUMNS, len(features))
        nearest = torch.cdist(features[:columns], features).argsort(1)[:, : sample.per_column]
        names = names_or_numbers(self.config)
        headings = [
            str(number + 1) if batch.labels is None else names[batch.labels[number]] for number in range(columns)
        ]
        groups = torch.arange(columns).repeat_interleave(nearest.shape[1])
        preview_groups(self.config, batch.x_1[nearest.flatten()], groups, headings, stem.with_suffix(".png"))

    def measure(self, networks: Networks, spec: MeasurementSpec, progress: Progress) -> Measurement:
        """Measures the features in `spec.num` few-shot episodes on held-out examples."""
        episodes = Episodes(num=spec.num, seed=spec.seed)
        batch = played_examples(self.config.data, episodes)
        with networks.average() as model:
            assert isinstance(model, Contrastive)
            of_run = {"checkpoint": spec.checkpoint, "device": next(model.parameters()).device, "progress": progress}
            about = in_words(self.config.data)
            return measure_features(model.features, "features of the run", batch, episodes, about=about, **of_run)

    def state(self) -> dict[str, Any]:
        if self._memory is None:
            return {}
        return self._memory.state() if self._loaded is None else self._loaded

    def load(self, state: dict[str, Any] | None) -> None:
        self._memory, self._loaded = self._new_memory(), state or None

    def _new_memory(self) -> Memory | None:
        seed = self.config.run.seed
        match self.settings.positives:
            case DynamicClusters() as clusters:
                return ClusteredMemory(clusters, seed)
            case NearestNeighbours() as nearest:
                return Memory(nearest, seed)
            case _:
                return None

    def _take_up(self, device: torch.device) -> None:
        """Moves the loaded memory to the network's device."""
        if self._loaded is not None and self._memory is not None:
            self._memory.load(self._loaded, device)
            self._loaded = None

    def _uniformity(self, predicted_BP: Tensor, compared: Compared) -> Tensor:
        """Soft maximum [B] of the cosines to both views of all other examples."""
        logits = predicted_BP @ compared.others.mT / self.settings.temperature
        every = len(compared.others) // 2
        places = torch.arange(2 * every, device=logits.device) % every
        logits = logits.masked_fill(places == compared.rows[:, None], -torch.inf)
        mean = logits.logsumexp(1) - torch.full((), 2.0 * every - 2, device=logits.device).log()
        return self.settings.temperature * mean


def _projected(model: Callable[..., Any], views: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The network's projections of both views, as unit vectors [B, P] without gradient."""
    first, second = functional.normalize(model(torch.cat(views))[0].detach(), dim=1).chunk(2)
    return first, second


TASKS: Builders = {ContrastiveTaskConfig: ContrastiveTask}
