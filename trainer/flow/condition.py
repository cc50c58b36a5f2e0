"""The input of a network besides the state and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Condition:
    """Conditions of a batch; fields that a run does not use are None.

    Attributes:
        label: int64 [B] classes; the number of classes stands for no class.
        context: [B, C', *rest] values that a network reads together with the state [B, C, *rest].
        segment: number of the segment of time that the whole batch is in, if a sampler sets it; None: the times decide.
        caption: float [B, W] vectors of captions; zeros stand for no caption.
        task: int64 [B] numbers of tasks, which routed adapters read.
    """

    label: Tensor | None = None
    context: Tensor | None = None
    segment: int | None = None
    caption: Tensor | None = None
    task: Tensor | None = None

    def rows(self, index: Tensor) -> Condition:
        """The conditions at the rows `index`, int64 [N]."""
        return self._each(lambda value: value[index])

    def to(self, device: torch.device) -> Condition:
        """The same conditions on `device`."""
        return self._each(lambda value: value.to(device))

    def beside(self, other: Condition) -> Condition:
        """These conditions followed by those of `other`, which uses the same fields."""
        pairs = zip(self._tensors, other._tensors, strict=True)
        label, context, caption, task = (_joined(*pair) for pair in pairs)
        return Condition(label, context, self.segment, caption, task)

    @property
    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.label, self.context, self.caption, self.task

    def _each(self, change: Callable[[Tensor], Tensor]) -> Condition:
        label, context, caption, task = (None if value is None else change(value) for value in self._tensors)
        return Condition(label, context, self.segment, caption, task)


UNCONDITIONAL = Condition()


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])
