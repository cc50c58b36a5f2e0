"""What a causal network keeps of the tokens that it has read, so that the next token costs one token's pass."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor


class KeysAndValues:
    """Keys and values of the tokens that one block has read; [B, heads, tokens, width] each."""

    def __init__(self) -> None:
        self._kept: tuple[Tensor, Tensor] | None = None

    def extended(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps those of further tokens, and returns keys and values of all tokens so far."""
        if self._kept is not None:
            key, value = torch.cat([self._kept[0], key], dim=2), torch.cat([self._kept[1], value], dim=2)
        self._kept = key, value
        return key, value


class Past:
    """What every block keeps of the tokens that a network has read.

    Attributes:
        length: tokens that were read.
        blocks: keys and values by the number of the block.
    """

    def __init__(self) -> None:
        self.length = 0
        self.blocks: defaultdict[int, KeysAndValues] = defaultdict(KeysAndValues)
