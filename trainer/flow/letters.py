"""States of sequences: one-hot letters less their mean."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.flow.context import Space


def centred(letters: Tensor) -> Tensor:
    """Distributions [B, V, *rest] over letters as points of states, whose sum over letters is 0."""
    return letters - 1 / letters.shape[1]


class Letters(Space):
    """Encodes one-hot sequences [B, V, *rest]; a state is decoded to the letter of its largest value at each place."""

    def encode(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return centred(examples)

    def decode(self, states: Tensor) -> Tensor:
        """Decodes states [B, V, *rest] to one-hot letters, without gradient."""
        return one_hot_of(states)

    def shown(self, examples: Tensor, *, generator: torch.Generator) -> Tensor:  # noqa: ARG002
        return examples


def one_hot_of(values: Tensor) -> Tensor:
    """The letters of the largest of values [B, V, *rest], one-hot in their shape and type."""
    return torch.zeros_like(values).scatter_(1, values.argmax(1, keepdim=True), 1.0)
