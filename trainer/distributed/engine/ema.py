"""The exponential moving average of the weights, divided over ranks as the optimiser's master weights are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from trainer.distributed.engine.protocol import Engine
from trainer.model.parallel.state import StatePiece

_WEIGHTS = ("weight",)
_EXCHANGED_ELEMENTS = 2**24
"""Elements copied at once while weights and averages are exchanged: 64 MiB."""


class MovingAverage:
    """average <- d average + (1 - d) weight after each optimiser step s, d = min(decay, (1 + s) / (10 + s)).

    It averages the float32 master weights, under bf16 too, so that changes too small for a rounded weight count. A rank
    averages only the weights that its own optimiser updates: 4 bytes per element.
    """

    def __init__(self, engine: Engine, decay: float) -> None:
        """Starts from the engine's current weights; `decay`, the upper limit of d, is in [0, 1)."""
        self._engine, self._decay = engine, decay
        self._weights = _stretches(piece.tensor for piece in engine.state(_WEIGHTS))
        self._averages = {memory: weights.clone() for memory, weights in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Includes the weights after `step` optimiser steps, from 1, without copying them."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([*self._averages.values()], [*self._weights.values()], 1 - decay)

    def state(self) -> list[StatePiece]:
        """This rank's averages as rectangles of the whole parameters, of kind ``ema``, as views.

        They are divided like the weights in the engine's state, and follow an expert that has moved to another rank.
        """
        weights = self._engine.state(_WEIGHTS)
        return [replace(piece, kind="ema", tensor=self._average_of(piece.tensor)) for piece in weights]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While entered, the network computes with the averages, in evaluation mode; collective.

        Averages and master weights are exchanged, and restored bit for bit at the end. Never enter it between the micro
        batches of a step.
        """
        self._exchange()
        try:
            self._engine.weights_written()
            with self._engine.evaluating():
                yield
        finally:
            self._exchange()
            self._engine.weights_written()

    @torch.no_grad()
    def _exchange(self) -> None:
        for memory, weights in self._weights.items():
            for weight, average in zip(
                weights.split(_EXCHANGED_ELEMENTS), self._averages[memory].split(_EXCHANGED_ELEMENTS), strict=True
            ):
                kept = weight.clone()
                weight.copy_(average)
                average.copy_(kept)

    def _average_of(self, weight: Tensor) -> Tensor:
        """The averages of some master weights, as a view."""
        memory = _memory(weight)
        first = self._weights[memory].storage_offset()
        return self._averages[memory].as_strided(weight.size(), weight.stride(), weight.storage_offset() - first)


def _stretches(views: Iterable[Tensor]) -> dict[int, Tensor]:
    """Maps the address of each memory to one flat view that covers all `views` into it."""
    stretches: dict[int, Tensor] = {}
    for view in views:
        first = view.storage_offset()
        end = first + sum((size - 1) * stride for size, stride in zip(view.size(), view.stride(), strict=True)) + 1
        known = stretches.get(_memory(view))
        if known is not None:
            first, end = min(first, known.storage_offset()), max(end, known.storage_offset() + known.numel())
        stretches[_memory(view)] = view.detach().as_strided((end - first,), (1,), first)
    return stretches


def _memory(view: Tensor) -> int:
    return view.untyped_storage().data_ptr()
