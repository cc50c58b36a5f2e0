"""Couplings whose source points depend on the condition: on the ends of a reaction, or on a caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainer.flow.condition import Condition
from trainer.flow.coupling.protocol import BuiltIn, Pairs, keyed_normals, standard_normal
from trainer.flow.question import Encode


class Encoded(BuiltIn):
    """The source point is the encoding of the data point's caption, by the network's own encoder; nothing to set.

    What is drawn is the standard normal noise of the source points: training hands it to the network together with the
    captions, so that the encoder gets gradients, and samples begin at what :meth:`encode` makes of it.

    Source: Liu et al., "Flowing from Words to Pixels: A Noise-Free Framework for Cross-Modality Evolution", arXiv
    2412.15213 (CrossFlow).
    """

    kind: Literal["encoded"] = "encoded"
    normal_source: ClassVar[bool] = True
    encodes_captions: ClassVar[bool] = True

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        return Pairs(standard_normal(x_1, x_0, generator), x_1, condition)

    def encode(self, model: Callable[..., Any], noise: Tensor, condition: Condition) -> Tensor:
        """The source points [B, *D] of captions and noise [B, *D], on their device."""
        return model(noise, noise.new_zeros(len(noise)), condition, Encode())


class Ends(BuiltIn):
    """The source of a transition state has noise at the free atoms; the other atoms are already in place.

    The weight of a pair is the inverse of its share of free atoms: the mean loss over all atoms is then the mean over
    the free ones. TS-GEN has normal noise around the origin; noise around the middle of the ends leaves less to learn.
    """

    kind: Literal["ends"] = "ends"
    begin: Literal["noise", "midpoint"] = "midpoint"
    """Point that the noise is added to. noise: the origin; midpoint: the middle of reactant and product."""
    deviation: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    """Standard deviation of the noise, in angstrom."""

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        if x_0 is not None:
            raise ValueError("x_0: a coupling of kind ends draws its source points itself; give none")
        noise = standard_normal(x_1, None, generator)
        x_0 = self._around(noise, condition)
        shares = _free(condition).float().flatten(1).mean(1)
        return Pairs(x_0, x_1, condition, -shares.log())

    def start(self, shape: Sequence[int], condition: Condition, keys: Tensor) -> Tensor:
        return self._around(keyed_normals(shape, keys), condition)

    def _around(self, noise: Tensor, condition: Condition) -> Tensor:
        """Source points [B, 3, 1, N]: scaled `noise` around `begin` at free atoms, the reactant's place at others."""
        assert condition.context is not None, "data of kind reactions have contexts"
        reactant, product = condition.context[:, :3], condition.context[:, 3:6]
        middle = (reactant + product) / 2 if self.begin == "midpoint" else torch.zeros_like(reactant)
        return torch.where(_free(condition), middle + self.deviation * noise, reactant)


def _free(condition: Condition) -> Tensor:
    """Whether each atom [B, 1, 1, N] is free, by the last channel of the context."""
    assert condition.context is not None
    return condition.context[:, -1:] > 0
