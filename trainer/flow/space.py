"""The space of the states of a flow, and its relation to the examples of a data set."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Space(Protocol):
    """Encodes examples into the states of a flow, and decodes states into images or points."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """The states of examples.

        Args:
            examples: [B, *shape] of the data set.
            generator: of all draws.

        Returns:
            [B, *D] on the device of the examples, of about zero mean and unit variance, without gradient.
        """
        ...

    def decode(self, states: Tensor) -> Tensor:
        """The images or points [B, *shape] of states [B, *D]; differentiable in the states."""
        ...

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """Examples as the decoder returns them, so that they can be compared with decoded states."""
        ...


class Identity(Space):
    """The states are the examples themselves."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """Nothing is drawn."""
        return examples

    def decode(self, states: Tensor) -> Tensor:
        return states

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return examples
