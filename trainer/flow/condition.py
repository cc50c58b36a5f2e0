"""What a network is told beside the state and the time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Condition(NamedTuple):
    """Conditions of a batch; a field that a run has no use for is None.

    Attributes:
        label: int64 [B] classes; one more than there are stands for none.
        context: [B, C', *rest] values that a network reads beside the state, where the state is [B, C, *rest].
    """

    label: Tensor | None = None
    context: Tensor | None = None

    def rows(self, index: Tensor) -> Condition:
        """The conditions at the rows `index`, int64 [N]."""
        return Condition(*(None if value is None else value[index] for value in self))

    def to(self, device: torch.device) -> Condition:
        """The same conditions on `device`."""
        return Condition(*(None if value is None else value.to(device) for value in self))

    def beside(self, other: Condition) -> Condition:
        """These conditions followed by `other`'s, which has the same fields."""
        return Condition(
            *(None if a is None or b is None else torch.cat([a, b]) for a, b in zip(self, other, strict=True))
        )


UNCONDITIONAL = Condition()
