"""The conditioning of a batch, which a network reads besides state and time, and random draws by examples' keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moe.seeds import fold_in, normal, uniform


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
        return self._each(lambda value: value[index])

    def to(self, device: torch.device) -> Condition:
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


def per_value(row: Tensor, x: Tensor) -> Tensor:
    """Values [B] of examples in the shape [B, 1, ..., 1], in which they broadcast to states [B, *D]."""
    return row.view(-1, *[1] * (x.ndim - 1))


def _joined(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])


UNIFORM = 1
"""Keeps uniform draws of a number independent of the normal draws of that number."""


def random_keys(num: int, generator: torch.Generator) -> Tensor:
    """Draws a key for each of `num` examples, int64 [num] on the device of the generator."""
    return torch.randint(2**63 - 1, (num,), generator=generator, device=generator.device)


def keyed_normal(x: Tensor, keys: Tensor, number: int) -> Tensor:
    """Draws standard normal values like `x` [B, *D] by keys int64 [B] of examples; each `number` is another draw."""
    stream = fold_in(keys.to(x.device), number)[:, None]
    values = torch.arange(x[0].numel(), device=x.device)
    return normal(fold_in(stream, values)).reshape(x.shape).to(x.dtype)


def keyed_uniform(keys: Tensor, count: int, number: int) -> Tensor:
    """Draws `count` values in [0, 1) for each key int64 [B], float32 [B, count]; each `number` is another draw."""
    stream = fold_in(fold_in(keys, number), UNIFORM)[:, None]
    return uniform(fold_in(stream, torch.arange(count, device=keys.device))).float().clamp(max=1 - 2.0**-24)
