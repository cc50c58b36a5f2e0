"""Settings of tasks that learn features or clusters without labels, and of the views that they compare."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from moe.host_copies import to_device
from netsim.foundation.settings import Section
from trainer.config.task.protocol import Calls, TaskSettings
from trainer.data.picture import moved


class Views(Section):
    """Two views of each training example: it is shifted, mirrored, scaled and noised twice, by draws of its own."""

    shift: NonNegativeInt = 1
    """Pixels that an image is shifted by at most, up or down and left or right; 0 for vectors."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability that an image is mirrored left to right; 0 for vectors, digits and text."""
    scale: float = Field(default=0.1, ge=0, lt=1)
    """Largest share by which all values of an example are made larger or smaller."""
    noise: float = Field(default=0.1, ge=0)
    """Standard deviation of normal noise that is added to each value."""

    def pair(self, x_1: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns two views of examples [B, *D] on any device; all draws are from a CPU generator."""
        return self._view(x_1, generator), self._view(x_1, generator)

    def _view(self, x_1: Tensor, generator: torch.Generator) -> Tensor:
        """Returns one view. Draws are made on the host, to be equal for any device, and are copied without a wait."""
        num, view = len(x_1), x_1
        if self.shift or self.flip:
            shifts = torch.randint(-self.shift, self.shift + 1, (2, num, 1), generator=generator)
            flipped = torch.rand(num, 1, generator=generator) < self.flip
            down, right = to_device(shifts, x_1.device)
            view = moved(view, down, right, to_device(flipped, x_1.device))
        if self.scale:
            factors = 1 + self.scale * (2 * torch.rand(num, *[1] * (x_1.ndim - 1), generator=generator) - 1)
            view = view * to_device(factors, x_1.device)
        if self.noise:
            view = view + self.noise * to_device(torch.randn(x_1.shape, generator=generator), x_1.device)
        return view

    def check_examples(self, shape: Sequence[int]) -> None:
        """Refuses, with a ValueError, examples that cannot be shifted or flipped as set."""
        if len(shape) != 3:
            for name in ("shift", "flip"):
                if getattr(self, name):
                    problem = f"{getattr(self, name):g} moves images, and these examples have shape {list(shape)}"
                    raise ValueError(f"task.views.{name}: {problem}; use 0")
        elif self.shift >= (side := min(shape[1:])):
            problem = f"{self.shift} pixels are too large a shift for an image of {side}"
            raise ValueError(f"task.views.shift: {problem}; use {side // 8} to {side - 1}")


MOST_EXAMPLES = 16_384
"""Most examples of a plan, which compares each with every other one."""


class UniformLabels(Section):
    """Every example gets a label, and all clusters have the same size. Asano et al., "Self-labelling", 2020."""

    kind: Literal["uniform"] = "uniform"
    epsilon: PositiveFloat = 0.1
    """Weight of the plan's entropy, in units of its cost, the negative log-probability of a cluster; a larger one makes
    softer labels."""
    iterations: PositiveInt = 10
    """Sinkhorn iterations of each plan, which starts where the last one ended."""

    def mass(self, progress: float) -> float:
        """Share of the mass of all examples that is labelled after a share of the run, both in [0, 1]."""
        del progress
        return 1.0

    @property
    def price(self) -> float:
        """Price of a cluster whose size differs from the others', in units of the divergence of the sizes."""
        return math.inf


class UnbalancedLabels(UniformLabels):
    """Every example gets a label, and cluster sizes that differ from the mean have a price."""

    kind: Literal["unbalanced"] = "unbalanced"
    gamma: PositiveFloat = 1.0
    """Weight of the Kullback-Leibler divergence of the cluster sizes from equal sizes. Large: equal sizes; near 0: one
    cluster takes all."""

    @property
    def price(self) -> float:
        return self.gamma


class PartialLabels(UnbalancedLabels):
    """At first only the most certain examples get labels, in the end all.

    Zhang et al., "P2OT: Progressive Partial Optimal Transport for Deep Imbalanced Clustering", 2024.
    """

    kind: Literal["partial"] = "partial"
    first_mass: float = Field(default=0.1, gt=0, lt=1)
    """Initial share m of the mass of all examples that is labelled; after the share t of the run it is m + (1 - m)
    exp(-5 (1 - t)^2)."""

    def mass(self, progress: float) -> float:
        return self.first_mass + (1 - self.first_mass) * math.exp(-5 * (1 - progress) ** 2)


class SemanticLabels(PartialLabels):
    """Like partial; besides, neighbouring features are drawn into one cluster.

    Zhang et al., "SP2OT: Semantic-Regularized Progressive Partial Optimal Transport for Imbalanced Clustering", 2024.
    """

    kind: Literal["semantic"] = "semantic"
    neighbours: PositiveInt = 20
    """Nearest examples of the same plan, by the cosine of features, whose clusters attract an example."""
    attraction: PositiveFloat = 0.05
    """Weight of the attraction between neighbours, in units of the number of examples; it falls with the share of
    examples that is not labelled. If it is too large, few clusters take all. 2 in the publication, which begins with
    trained features."""
    rounds: PositiveInt = 5
    """Number of plans that are solved one after the other; the cost of each follows from the neighbours' labels in the
    last one."""


Labels = Annotated[
    UniformLabels | UnbalancedLabels | PartialLabels | SemanticLabels,
    Field(discriminator="kind"),
]


class ClusteringTaskConfig(TaskSettings):
    """Clusters of examples without labels: a view learns the cluster that a plan assigns to the other view."""

    kind: Literal["clustering"] = "clustering"
    labels: Labels = SemanticLabels()
    """How a plan labels the examples of a step."""
    views: Views = Views()
    """How the two views of an example differ."""
    steps_of_a_plan: PositiveInt = 1
    """Steps whose examples are labelled together, before the first of them."""
    memory: NonNegativeInt = 0
    """Earlier plans whose examples are labelled again beside those of a new one, by their features and predictions of
    that time."""

    @property
    def cycle(self) -> int:
        return self.steps_of_a_plan

    @property
    def calls(self) -> tuple[Calls, ...]:
        return (Calls("rollout", rows=2), Calls("learn", rows=2, gradient=True))


class ViewsAlone(Section):
    """The other view of an example, and nothing else. Grill et al., "Bootstrap Your Own Latent", 2020."""

    kind: Literal["views"] = "views"


class NearestNeighbours(Section):
    """Also the nearest among the latest examples of the run, by the cosine of the teacher's projections.

    Dwibedi et al., "With a Little Help from My Friends", 2021.
    """

    kind: Literal["nearest"] = "nearest"
    memory: PositiveInt = 2000
    """Examples that are kept, the last ones, on every rank."""
    neighbours: PositiveInt = 5
    """Nearest neighbours of each view."""
    begin: NonNegativeInt = 100
    """Steps before neighbours count; they do not count before the memory is full either."""

    @model_validator(mode="after")
    def _there_are_neighbours(self) -> "NearestNeighbours":
        if self.neighbours >= self.memory:
            raise ValueError(
                f"neighbours: {self.neighbours} are not fewer than the {self.memory} examples of memory; use "
                f"{min(5, self.memory - 1)}"
            )
        return self


class DynamicClusters(NearestNeighbours):
    """Nearest examples within the nearest cluster; transport divides new examples evenly among the clusters.

    Poulakakis-Daktylidis and Jamali-Rad, "BECLR: Batch Enhanced Contrastive Few-Shot Learning", ICLR 2024 (DyCE).
    """

    kind: Literal["dynamic_clusters"] = "dynamic_clusters"  # pyright: ignore[reportIncompatibleVariableOverride]
    clusters: PositiveInt = 50
    """Clusters into which the memory is divided: by k-means once it is full, and from then on as examples come."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the centre of a cluster that stays in a step; the rest is the mean of its examples in the memory."""
    epsilon: PositiveFloat = 0.05
    """Weight of the plan's entropy, in units of its cost, the distance of unit vectors."""
    iterations: PositiveInt = 10
    """Sinkhorn iterations in a step."""

    @model_validator(mode="after")
    def _clusters_hold_several(self) -> "DynamicClusters":
        if 2 * self.clusters > self.memory:
            raise ValueError(
                f"clusters: {self.clusters} of the {self.memory} examples of memory hold fewer than 2 each; use "
                f"{self.memory // 2} or less, or a larger memory"
            )
        return self


Positives = Annotated[ViewsAlone | NearestNeighbours | DynamicClusters, Field(discriminator="kind")]


class ContrastiveTaskConfig(TaskSettings):
    """Features without labels: from a view, the network predicts the moving average's projections of positives.

    The moving average of the weights (`optim.ema_decay`) is the teacher. The loss is the negative cosine, and a term
    that keeps the examples of a step apart.
    """

    kind: Literal["contrastive"] = "contrastive"
    views: Views = Views()
    """How the two views of an example differ."""
    positives: Positives = DynamicClusters()
    """Positives that a view is drawn to besides the other view of its example."""
    uniformity: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of temperature x the logarithm of the mean of exp(cosine / temperature) over the other examples of a step;
    1: that of InfoNCE. BECLR's 0.05 at temperature 2 needs batches that are normalised inside the network; without them
    all features become one."""
    temperature: PositiveFloat = 0.2
    """Temperature of the term of `uniformity`; if it is small, only the nearest other examples count."""

    @property
    def calls(self) -> tuple[Calls, ...]:
        return (Calls("rollout", rows=2), Calls("learn", rows=2, gradient=True))


class CorrespondenceTaskConfig(TaskSettings):
    """Features of the points of surfaces, learned from pairs without known correspondence.

    The features determine functional maps in both directions. The loss measures how far these are from maps that a map
    of points induces. Le et al., "Integrating efficient optimal transport and functional maps", 2024, sections 3 and 4;
    Cao et al., "Unsupervised learning of robust spectral shape matching", 2023, equations 4 to 7.
    """

    kind: Literal["correspondence"] = "correspondence"
    bijectivity: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the penalty on how far the maps there and back, one after the other, are from the identity."""
    orthogonality: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the penalty on how far each map is from keeping areas."""
    alignment: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of the penalty on how far each map is from the map between points whose features are alike."""
    sliced: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Weight of the sliced transport cost between the features of each surface and those that are carried to it; 100 as
    published, where no gain of it is seen on the pairs that ship."""
    slices: PositiveInt = 200
    """Directions that features are projected onto."""
    temperature: PositiveFloat = 0.07
    """Temperature that the cosines of features are divided by before points are compared with each other."""
    smoothness: PositiveFloat = 1e-1
    """Weight of the penalty that holds a functional map near the diagonal, where eigenvalues of both surfaces agree."""
