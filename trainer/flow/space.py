"""Where the states of a flow live, seen from the examples of a data set."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Space(Protocol):
    """From examples to the states that a flow learns to draw, and from those to what a person looks at."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """The states of examples.

        Args:
            examples: [B, *shape] as the data set gives them.
            generator: where every draw comes from.

        Returns:
            [B, *D] on the device of the examples, of about zero mean and unit variance; nothing has a gradient.
        """
        ...

    def decode(self, states: Tensor) -> Tensor:
        """The images or points [B, *shape] of states [B, *D]."""
        ...

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:
        """Examples as what states are decoded to, so that both can be compared."""
        ...


class Identity(Space):
    """The states are the examples themselves."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """See `Space.encode`; nothing is drawn."""
        return examples

    def decode(self, states: Tensor) -> Tensor:
        """See `Space.decode`."""
        return states

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        """See `Space.shown`."""
        return examples
