"""What a network is told beside the state and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Conditions of a batch; a field that a run has no use for is None.

    Attributes:
        label: int64 [B] classes; one more than there are stands for none.
        context: [B, C', *rest] values that a network reads beside the state, where the state is [B, C, *rest].
        segment: of time that the whole batch is in, where a sampler knows it; None: the times tell.
    """

    label: Tensor | None = None
    context: Tensor | None = None
    segment: int | None = None

    def rows(self, index: Tensor) -> Condition:
        """The conditions at the rows `index`, int64 [N]."""
        return self._each(lambda value: value[index])

    def to(self, device: torch.device) -> Condition:
        """The same conditions on `device`."""
        return self._each(lambda value: value.to(device))

    def beside(self, other: Condition) -> Condition:
        """These conditions followed by `other`'s, which has the same fields."""
        return Condition(_joined(self.label, other.label), _joined(self.context, other.context), self.segment)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        label, context = (None if value is None else change(value) for value in (self.label, self.context))
        return Condition(label, context, self.segment)


UNCONDITIONAL = Condition()


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])
