"""Settings of clustering by labels that a transport plan gives."""

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from netsim.foundation.settings import Section
from trainer.config.task.protocol import Calls, TaskSettings
from trainer.config.task.views import Views

MOST_EXAMPLES = 16_384
"""Of a plan: each is compared with every other one."""


class UniformLabels(Section):
    """Every example gets a label, and all clusters have the same size. Asano et al., "Self-labelling", 2020."""

    kind: Literal["uniform"] = "uniform"
    epsilon: PositiveFloat = 0.1
    """Entropy of the plan in units of its cost, the negative log-probability of a cluster: large: softer labels."""
    iterations: PositiveInt = 10
    """Of Sinkhorn's algorithm in each plan, which starts where the last one ended."""

    def mass(self, progress: float) -> float:
        """Share of the mass of all examples that is labelled after a share of the run, both in [0, 1]."""
        del progress
        return 1.0

    @property
    def price(self) -> float:
        """Of a cluster whose size differs from that of the others, in units of the divergence of both."""
        return math.inf


class UnbalancedLabels(UniformLabels):
    """Every example gets a label, and clusters of other sizes than the mean have a price."""

    kind: Literal["unbalanced"] = "unbalanced"
    gamma: PositiveFloat = 1.0
    """Price of cluster sizes that differ, beside the Kullback-Leibler divergence: large: equal sizes; near 0: one
    cluster takes all."""

    @property
    def price(self) -> float:
        return self.gamma


class PartialLabels(UnbalancedLabels):
    """At first the surest examples alone get labels, at last all of them.

    Zhang et al., "P2OT: Progressive Partial Optimal Transport for Deep Imbalanced Clustering", 2024.
    """

    kind: Literal["partial"] = "partial"
    first_mass: float = Field(default=0.1, gt=0, lt=1)
    """Share m of the mass of all examples that is labelled at first; after the share t of the run it is
    m + (1 - m) exp(-5 (1 - t)^2)."""

    def mass(self, progress: float) -> float:
        return self.first_mass + (1 - self.first_mass) * math.exp(-5 * (1 - progress) ** 2)


class SemanticLabels(PartialLabels):
    """As partial, and examples that are neighbours by their features like to be in one cluster.

    Zhang et al., "SP2OT: Semantic-Regularized Progressive Partial Optimal Transport for Imbalanced Clustering", 2024.
    """

    kind: Literal["semantic"] = "semantic"
    neighbours: PositiveInt = 20
    """Nearest examples of the same plan, by the cosine of features, that an example likes to be with."""
    attraction: PositiveFloat = 0.05
    """Weight of that, in units of the number of examples; it falls with the share of them that is not labelled. Too
    large, and few clusters take all. 2 in the publication, which begins with trained features."""
    rounds: PositiveInt = 5
    """Plans that follow each other, each for the cost that the last one makes of the neighbours."""


Labels = Annotated[
    UniformLabels | UnbalancedLabels | PartialLabels | SemanticLabels,
    Field(discriminator="kind"),
]


class ClusteringTaskConfig(TaskSettings):
    """Clusters of examples without labels: each learns the cluster that a transport plan gives its other view."""

    kind: Literal["clustering"] = "clustering"
    labels: Labels = SemanticLabels()
    """How a plan labels the examples of a step."""
    views: Views = Views()
    """What is compared of each example."""
    steps_of_a_plan: PositiveInt = 1
    """Steps whose examples are labelled together, before the first of them."""
    memory: NonNegativeInt = 0
    """Earlier plans whose examples are labelled once more beside those of a new one, by what they were then."""

    @property
    def cycle(self) -> int:
        return self.steps_of_a_plan

    @property
    def calls(self) -> tuple[Calls, ...]:
        return (Calls("rollout", rows=2), Calls("learn", rows=2, gradient=True))
