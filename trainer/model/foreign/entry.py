"""How a tensor of a network here is made of tensors in the file of another package, and back, without rounding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Entry:
    """One tensor here, and what it is made of there.

    Attributes:
        name: of the tensor here.
        shape: of it.
        parts: shapes of the tensors there by name; their rows, one tensor behind the other, are those of the tensor
            here in another order.
        order: int64, which of those rows each row here is; None: the same order.
        copies: whether each part holds all rows instead, and all parts hold the same.
    """

    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, tuple[int, ...]]
    order: Tensor | None = None
    copies: bool = False

    @classmethod
    def same(cls, name: str, other: str, *shape: int) -> Entry:
        """A tensor that is there as it is here, under another name."""
        return cls(name, shape, {other: shape})

    def join(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The tensor here, out of those there."""
        found = [parts[name] for name in self.parts]
        whole = found[0] if self.copies or len(found) == 1 else torch.cat(found)
        return (whole if self.order is None else whole[self.order]).reshape(self.shape).contiguous()

    def split(self, whole: Tensor) -> dict[str, Tensor]:
        """The tensors there, out of the one here."""
        rows = whole
        if self.order is not None:
            rows = torch.empty_like(whole)
            rows[self.order] = whole
        if self.copies:
            return {name: rows.reshape(shape).clone() for name, shape in self.parts.items()}
        lengths = [shape[0] for shape in self.parts.values()]
        pieces = rows.split(lengths)
        return {
            name: piece.reshape(shape).contiguous()
            for (name, shape), piece in zip(self.parts.items(), pieces, strict=True)
        }


def from_halves(heads: int, width: int, turned: int) -> Tensor:
    """Row there of each row here, int64 [heads width]: rotated pairs are neighbours here, half the width apart there.

    Su et al., "RoFormer", 2021, equation 34, pairs neighbours; GPT-NeoX and Llama pair coordinate i with i + turned / 2
    of the first `turned` rows of a head.
    """
    pairs = torch.arange(turned).view(2, -1).T.flatten()
    of_head = torch.cat([pairs, torch.arange(turned, width)])
    return (width * torch.arange(heads)[:, None] + of_head).flatten()


def elements(entries: list[Entry]) -> int:
    """Elements of the tensors here."""
    return sum(prod(entry.shape) for entry in entries)
