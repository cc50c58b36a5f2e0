"""Symmetric flows: the label goes to noise while the image comes from it, in one state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from moe.host_copies import to_device
from moe.seeds import fold_in
from netsim.foundation.own_class import build_own
from trainer.flow.condition import Condition, keyed_uniform
from trainer.flow.coupling.protocol import BuiltIn, Pairs, keyed_normals
from trainer.flow.label_field import AnyLabelField, LabelField, OwnLabelField, Scalar

LABEL_NOISE = 1
"""Keeps the noise of a label independent of the noise of the image of that key."""


class Symmetric(BuiltIn):
    """An image beside its masks or a code of its class in one state of C + P channels.

    At t = 0 the image is noise and the label is there, at t = 1 the other way round: one network draws images of a
    class forwards and reads the class of an image backwards, in one evaluation. "Symmetrical Flow Matching", arXiv
    2506.10634.
    """

    kind: Literal["symmetric"] = "symmetric"
    label: AnyLabelField = Scalar()
    """Code that stands for a label in the state: masks of the data, or a code of a class."""
    labels_in_state: ClassVar[bool] = True
    _num_classes: ClassVar[int] = 0

    def field(self) -> LabelField:
        """The encoder and decoder of labels; a custom class is built anew at each call."""
        return build_own(self.label) if isinstance(self.label, OwnLabelField) else self.label

    def of_classes(self, num_classes: int) -> Self:
        """A copy of the coupling for data with `num_classes` classes."""
        coupling = self.model_copy()
        vars(coupling)["_num_classes"] = num_classes
        return coupling

    def state_shape(self, example: Sequence[int], num_classes: int) -> tuple[int, ...]:
        channels, *rest = example
        return channels + self.field().planes(num_classes), *rest

    def draw(
        self, x_1: Tensor, condition: Condition, *, x_0: Tensor | None = None, generator: torch.Generator
    ) -> Pairs:
        if x_0 is not None:
            raise ValueError("x_0: a symmetric coupling draws its source points itself; give none")
        field = self.field()
        size = (len(x_1), field.planes(self._num_classes), *x_1.shape[2:])
        like = {"generator": generator, "dtype": x_1.dtype, "device": generator.device}
        made = torch.randn(x_1.shape, **like), torch.rand(size, **like), torch.randn(size, **like)
        drawn, uniform, label_noise = (to_device(one, x_1.device) for one in made)
        code = field.encode(condition, field.fill(uniform), self._num_classes)
        x_0, x_1 = torch.cat([drawn, code], dim=1), torch.cat([x_1, field.fill(label_noise)], dim=1)
        return Pairs(x_0, x_1, replace(condition, label=None, context=None))

    def start(self, shape: Sequence[int], condition: Condition, keys: Tensor) -> Tensor:
        field, (channels, *rest) = self.field(), shape
        planes = field.planes(self._num_classes)
        noise = keyed_normals((channels - planes, *rest), keys)
        size = torch.Size((planes, *rest))
        uniform = keyed_uniform(fold_in(keys, LABEL_NOISE), size.numel(), 0).reshape(len(keys), *size)
        return torch.cat([noise, field.encode(condition, field.fill(uniform), self._num_classes)], dim=1)
