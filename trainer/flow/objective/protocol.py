"""The loss of a batch: the protocol of objectives, and what the built-in ones share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from netsim.foundation.settings import Section
from trainer.flow.chain import Chain
from trainer.flow.condition import Condition
from trainer.flow.path.protocol import Path, PathSample
from trainer.flow.sampler.protocol import Field
from trainer.flow.target import Target


class LossTerms(NamedTuple):
    """Losses [B, *E] of one micro batch, of which training minimises the mean, and named scalars for the metrics."""

    values: Tensor
    terms: dict[str, Tensor]

    @property
    def per_example(self) -> Tensor:
        """[B] the mean loss of each example."""
        return self.values if self.values.ndim == 1 else self.values.flatten(1).mean(1)

    def mean(self, weight: Tensor | None = None) -> Tensor:
        """The mean over the micro batch, in one reduction if there are no weights [B], which are 1 on average."""
        return self.values.mean() if weight is None else (self.per_example * weight).mean()


class Model(Protocol):
    """A network that predicts a quantity at a state."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition, /) -> Tensor:
        """Returns the prediction at states `x_t` [B, *D] and times `t` [B], in the shape that `Target` defines."""
        ...


class FrozenFlow(Protocol):
    """A trained flow whose weights do not change."""

    def field(self, condition: Condition, guidance: float, device: torch.device) -> Field:
        """The field that a sampler follows on a device, to draw examples of a condition with guidance of 0 or more."""
        ...


class Objective(Protocol):
    """Computes the loss of a model at points of the path.

    Attributes:
        draws: whether it draws noise or times of its own, as functions of `PathSample.keys`.
    """

    draws: ClassVar[bool] = False

    def loss(self, model: Model, sample: PathSample, condition: Condition) -> LossTerms:
        """The losses at B points of the path of one micro batch.

        The weights of the pairs are left out, since these are normalised over the global batch.
        """
        ...


Teacher = Callable[[Tensor], Tensor]
"""From data [B, *D] to features: [B, F] of an example, or [B, F, rows, columns] of the patches of an image."""


@dataclass(frozen=True)
class ObjectiveInputs:
    """Everything that an objective is built on besides its settings.

    Attributes:
        target: the quantity that the network predicts.
        teacher: computes features of the data, for `Aligned`.
        reference: the flow of another run, for an objective whose settings name one.
        chain: the states that the network draws, for `CausalTransition`.
        tokens: number of tokens of a state, for an objective that draws by token.
        start: draws source points of a shape, for conditions and keys [B], as `Coupling.start` does.
        fields: channels of each part of a state, in their order; empty if it is one.
    """

    target: Target
    path: Path | None = None
    teacher: Teacher | None = None
    reference: FrozenFlow | None = None
    chain: Chain | None = None
    tokens: int = 1
    start: Callable[[Sequence[int], Condition, Tensor], Tensor] | None = None
    fields: Mapping[str, int] = field(default_factory=dict)


class BuiltIn(Section):
    """An objective that is its settings, and is built on what else it needs."""

    if TYPE_CHECKING:
        draws: ClassVar[bool]  # a field of those that draw, whose number of draws it is
        _inputs: ClassVar[ObjectiveInputs]  # of the instance that `build` returns

    def build(self, inputs: ObjectiveInputs) -> Self:
        built = self.model_copy()
        vars(built)["_inputs"] = inputs  # read in every step; a private attribute of pydantic takes microseconds
        return built
