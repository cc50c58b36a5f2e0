"""Labels as fields of a state: masks, and codes of classes that fill planes of an image, and how they are read back.

Shape legend: B examples, P planes of a field, *rest rows and columns of an image, nothing of a vector.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from netsim.foundation.own_class import KindOrClass, OwnClass
from netsim.foundation.settings import Section
from trainer.flow.condition import Condition


class LabelField(Protocol):
    """An encoding of labels with uniform noise between the codes; a flow would recognise bare codes in any noise."""

    @abstractmethod
    def planes(self, num_classes: int) -> int:
        """How many planes P a label fills."""

    @abstractmethod
    def fill(self, noise: Tensor) -> Tensor:
        """Makes the noise of fields from independent values [B, P, *rest].

        Where a code is the same in all pixels, so is its noise. Otherwise the mean of a plane would reveal the class
        until nearly t = 1, and the network would not learn to read it from the image.
        """

    @abstractmethod
    def encode(self, condition: Condition, uniform: Tensor, num_classes: int) -> Tensor:
        """Encodes a condition as fields [B, P, *rest], with the noise in [0, 1) that :meth:`fill` made."""

    @abstractmethod
    def decode(self, field: Tensor, num_classes: int) -> Tensor | None:
        """The classes int64 [B] of fields [B, P, *rest], from their means over `rest`; None if they have none."""


class Scalar(Section):
    """The number of a class, from -spread / 2 to spread / 2, the same in every plane and pixel.

    Neighbouring numbers have neighbouring codes. Symmetrical Flow Matching, arXiv 2506.10634, with spread 4.
    """

    kind: Literal["scalar"] = "scalar"
    spread: PositiveFloat = 4.0
    """Distance between the codes of the first and the last class."""
    repeats: PositiveInt = 1
    """Number of planes with the same code: in a vector a single plane has little weight beside the other values."""

    def planes(self, num_classes: int) -> int:  # noqa: ARG002
        return self.repeats

    def fill(self, noise: Tensor) -> Tensor:
        return even(noise)

    def encode(self, condition: Condition, uniform: Tensor, num_classes: int) -> Tensor:
        assert condition.label is not None
        half = self.spread / 2
        code = half * (2 * condition.label / (num_classes - 1) - 1)
        return _beside(code[:, None], uniform) + half / (num_classes - 1) * (uniform - 0.5)

    def decode(self, field: Tensor, num_classes: int) -> Tensor:
        mean = field.flatten(1).mean(1)
        return ((mean / self.spread + 0.5) * (num_classes - 1)).round().long().clamp(0, num_classes - 1)


class OneHot(Section):
    """A plane for each class, `spread` / 2 in that of the label and its negative in the others: no class is nearer."""

    kind: Literal["one_hot"] = "one_hot"
    spread: PositiveFloat = 2.0
    """Distance between the two values of a plane."""
    noise: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    """Width of the uniform noise."""

    def planes(self, num_classes: int) -> int:
        return num_classes

    def fill(self, noise: Tensor) -> Tensor:
        return even(noise)

    def encode(self, condition: Condition, uniform: Tensor, num_classes: int) -> Tensor:
        assert condition.label is not None
        code = self.spread * (torch.nn.functional.one_hot(condition.label, num_classes).float() - 0.5)
        return _beside(code, uniform) + self.noise * (uniform - 0.5)

    def decode(self, field: Tensor, num_classes: int) -> Tensor:  # noqa: ARG002
        return field.reshape(*field.shape[:2], -1).mean(2).argmax(1)


ClassField = Annotated[Scalar | OneHot, Field(discriminator="kind")]


class Channels(Section):
    """Masks or other maps that the data have beside each image, and perhaps a code of its class.

    Source: Symmetrical Flow Matching, arXiv 2506.10634, with uniform noise 10 / 127.5 wide.
    """

    kind: Literal["channels"] = "channels"
    num: PositiveInt = 1
    """Channels of the data's context, with values from -1 to 1; masks are read as those above 0."""
    noise: float = Field(default=10 / 127.5, ge=0, allow_inf_nan=False)
    """Width of the uniform noise of maps."""
    classes: ClassField | None = None
    """Code of a class after the maps; null: none, so that classes neither enter nor guide the network."""

    def planes(self, num_classes: int) -> int:
        return self.num + (0 if self.classes is None else self.classes.planes(num_classes))

    def fill(self, noise: Tensor) -> Tensor:
        if self.classes is None:
            return noise
        return torch.cat([noise[:, : self.num], self.classes.fill(noise[:, self.num :])], dim=1)

    def encode(self, condition: Condition, uniform: Tensor, num_classes: int) -> Tensor:
        assert condition.context is not None
        maps = condition.context + self.noise * (uniform[:, : self.num] - 0.5)
        if self.classes is None:
            return maps
        return torch.cat([maps, self.classes.encode(condition, uniform[:, self.num :], num_classes)], dim=1)

    def decode(self, field: Tensor, num_classes: int) -> Tensor | None:
        return None if self.classes is None else self.classes.decode(field[:, self.num :], num_classes)


class OwnLabelField(OwnClass, frozen=True):
    """A code of classes that keeps `LabelField`."""

    protocol: ClassVar[str] = "trainer.flow.label_field.LabelField"


AnyLabelField = Annotated[Scalar | OneHot | Channels | OwnLabelField, KindOrClass()]


def even(values: Tensor) -> Tensor:
    """Sets all pixels of each plane [B, P, *rest] to its first value."""
    return _beside(values.reshape(*values.shape[:2], -1)[..., 0], values)


def _beside(code: Tensor, uniform: Tensor) -> Tensor:
    """Broadcasts codes [B, P or 1] to the shape of `uniform`, [B, P, *rest]."""
    return code.reshape(*code.shape, *(1,) * (uniform.ndim - 2)).expand_as(uniform)
