"""The program's position in a step: its phase and its model block.

The position belongs to the process, not to a thread or contextvars context: autograd runs a GPU's backward pass in
threads of its own, whose collectives belong to the training loop's phase.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn


@dataclass(slots=True)
class Position:
    """The current phase (rollout, forward, backward or optimizer) and model block (None outside all blocks)."""

    phase: str = "forward"
    layer: int | None = None


position = Position()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Marks what runs inside as rollout, forward, backward or optimizer, outside all blocks."""
    outer = position.phase, position.layer
    position.phase, position.layer = name, None
    try:
        yield
    finally:
        position.phase, position.layer = outer


@contextmanager
def layer(index: int | None) -> Iterator[None]:
    """Marks what runs inside as part of model block `index`."""
    outer = position.layer
    position.layer = index
    try:
        yield
    finally:
        position.layer = outer


@contextmanager
def attach(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """While entered, the forward and backward passes of each block mark its index as the layer.

    The backward pass enters a block when the gradient of its first output tensor is ready, and leaves it when that of
    its first input tensor is, or at the end of the pass if that input needs no gradient. Work of an engine's own hooks
    around a block, such as gathering its parameters, counts as the block's.
    """
    with ExitStack() as hooks:
        for index, block in enumerate(blocks):
            enter_forward = partial(_enter_forward, index)
            enter_backward, leave_forward = partial(_enter_backward, index), partial(_leave_forward, index)
            for hook in (
                block.register_forward_pre_hook(enter_forward, prepend=True),
                block.register_forward_hook(enter_backward, prepend=True),
                block.register_forward_hook(leave_forward, always_call=True),
            ):
                hooks.callback(hook.remove)
        yield


def _enter_forward(index: int, _block: nn.Module, inputs: tuple[Any, ...]) -> None:
    _when_gradient_is_known(inputs, lambda _: _leave_backward(index))
    position.layer = index


def _leave_backward(index: int) -> None:
    if position.layer == index:
        position.layer = None


def _enter_backward(index: int, _block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    first = _first_tensor(inputs)
    is_last = first is not None and not first.requires_grad

    def enter(_gradient: torch.Tensor) -> None:
        position.layer = index
        if is_last:
            torch.autograd.Variable._execution_engine.queue_callback(partial(_leave_backward, index))

    _when_gradient_is_known(output, enter)


def _leave_forward(index: int, block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    """Hooks the final output too, since engines either hook the same output or replace it."""
    _enter_backward(index, block, inputs, output)
    position.layer = None


def _when_gradient_is_known(values: Any, hook: Callable[[torch.Tensor], None]) -> None:
    """Calls the hook once the gradient of the first tensor among `values` is ready.

    A block's input is often the output of the block before it, whose hook then runs first: leaving a block must not
    undo entering the next.
    """
    tensor = _first_tensor(values)
    if tensor is not None and tensor.requires_grad:
        tensor.register_hook(hook)


def _first_tensor(values: Any) -> torch.Tensor | None:
    candidates = values if isinstance(values, tuple | list) else (values,)
    return next((value for value in candidates if isinstance(value, torch.Tensor)), None)
