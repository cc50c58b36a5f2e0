"""Settings of learning by comparing views of examples, and examples that are near each other."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from netsim.foundation.settings import Section
from trainer.config.task.protocol import Calls, TaskSettings
from trainer.config.task.views import Views


class ViewsAlone(Section):
    """The other view of an example, and nothing else. Grill et al., "Bootstrap Your Own Latent", 2020."""

    kind: Literal["views"] = "views"


class NearestNeighbours(Section):
    """Also the nearest among the last examples that the run has seen, by the cosine of what the teacher makes of them.

    Dwibedi et al., "With a Little Help from My Friends", 2021.
    """

    kind: Literal["nearest"] = "nearest"
    memory: PositiveInt = 2000
    """Examples that are kept, the last ones, on every rank."""
    neighbours: PositiveInt = 5
    """Of each view."""
    begin: NonNegativeInt = 100
    """Steps before neighbours count; not before the memory is full either."""

    @model_validator(mode="after")
    def _there_are_neighbours(self) -> "NearestNeighbours":
        if self.neighbours >= self.memory:
            raise ValueError(
                f"neighbours: {self.neighbours} are not fewer than the {self.memory} examples of memory; use "
                f"{min(5, self.memory - 1)}"
            )
        return self


class DynamicClusters(NearestNeighbours):
    """As nearest, but within the nearest of some clusters, among which transport divides new examples evenly.

    Poulakakis-Daktylidis and Jamali-Rad, "BECLR: Batch Enhanced Contrastive Few-Shot Learning", ICLR 2024 (DyCE).
    """

    kind: Literal["dynamic_clusters"] = "dynamic_clusters"  # pyright: ignore[reportIncompatibleVariableOverride]
    clusters: PositiveInt = 50
    """Into which the memory is divided: by k-means once it is full, and from then on as examples come."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """What stays of the centre of a cluster in a step; the rest is the mean of its examples in the memory."""
    epsilon: PositiveFloat = 0.05
    """Entropy of the plan in units of its cost, the distance of unit vectors."""
    iterations: PositiveInt = 10
    """Of Sinkhorn's algorithm in a step."""

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
    """Features without labels: what the network predicts of a view is what its moving average makes of the positives.

    The moving average of the weights (`optim.ema_decay`) is the teacher. The loss is the negative cosine, and a term
    that keeps the examples of a step apart.
    """

    kind: Literal["contrastive"] = "contrastive"
    views: Views = Views()
    """How the two views of an example differ."""
    positives: Positives = DynamicClusters()
    """What a view is drawn to besides the other view of its example."""
    uniformity: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Weight of temperature x the logarithm of the mean of exp(cosine / temperature) over the other examples of a step;
    1: that of InfoNCE. BECLR's 0.05 at temperature 2 needs batches that are normalised inside the network; without them
    all features become one."""
    temperature: PositiveFloat = 0.2
    """Of that term; small: only the nearest others count."""

    @property
    def calls(self) -> tuple[Calls, ...]:
        return (Calls("rollout", rows=2), Calls("learn", rows=2, gradient=True))
