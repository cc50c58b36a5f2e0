"""A chain of states from noise to data that are drawn token by token, the tokens of a state, and their times."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

History = Literal["last", "full"]
"""The states that a token is drawn from besides the tokens before it: the last one, or all so far."""


@dataclass(frozen=True)
class Chain:
    """States X_0, ..., X_T of shape [C, H, W] or [V], each cut into tokens: patches row by row, or single values.

    The side of a patch divides H and W. It has no effect on vectors.
    """

    transitions: int
    history: History
    shape: tuple[int, ...]
    patch_size: int = 1

    @property
    def num_tokens(self) -> int:
        if len(self.shape) == 1:
            return self.shape[0]
        rows, columns = self.grid
        return rows * columns

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches of an image."""
        _, height, width = self.shape
        return height // self.patch_size, width // self.patch_size

    @property
    def token_values(self) -> int:
        return 1 if len(self.shape) == 1 else self.shape[0] * self.patch_size**2

    @property
    def read_at_once(self) -> int:
        """Number of next states that one pass of the network reads: 1 with history ``last``, else all T."""
        return 1 if self.history == "last" else self.transitions

    def tokens(self, x: Tensor) -> Tensor:
        """Cuts states [.., *shape] into tokens [.., tokens, values]."""
        if len(self.shape) == 1:
            return x[..., None]
        size, (rows, columns) = self.patch_size, self.grid
        patches = x.unflatten(-1, (columns, size)).unflatten(-3, (rows, size))
        return patches.movedim((-4, -2), (-5, -4)).flatten(-3).flatten(-3, -2)

    def states(self, tokens: Tensor) -> Tensor:
        """Puts tokens [.., tokens, values] together to states [.., *shape]."""
        if len(self.shape) == 1:
            return tokens[..., 0]
        size, (rows, columns) = self.patch_size, self.grid
        patches = tokens.unflatten(-1, (self.shape[0], size, size)).unflatten(-4, (rows, columns))
        return patches.movedim((-5, -4), (-4, -2)).flatten(-2).flatten(-3, -2)


def by_value(s: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Spreads times [.., N] of the patches of an image over their pixels, [.., 1, H, W]; keeps [.., 1] of a vector."""
    if len(shape) == 1:
        return s
    _, height, width = shape
    side = math.isqrt(height * width // s.shape[-1])
    rows = s.unflatten(-1, (height // side, width // side))
    return rows.repeat_interleave(side, -2).repeat_interleave(side, -1).unsqueeze(-3)
