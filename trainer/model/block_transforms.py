"""How the blocks of a network compute, whatever engine moves their weights: compiled, or twice to save memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moe.repetition import passes
from trainer.config.sections import DeepSpeedConfig, FSDPConfig


def prepare_blocks(blocks: nn.ModuleList, config: DeepSpeedConfig | FSDPConfig) -> None:
    """Has each block compute as the engine's settings ask, in place, before an engine puts its hooks around it.

    With ``activation_checkpointing`` a block keeps its inputs alone and computes the rest again when its gradient is
    due: the same draws, the same collectives, the same bits (Chen et al., "Training Deep Nets with Sublinear Memory
    Cost", 2016). With ``compile`` it is one compiled graph, with the draws of the uncompiled one.
    """
    for block in blocks:
        compute: Any = block.forward
        if config.compile:
            compute = torch.compile(compute, fullgraph=True, options={"fallback_random": True})
        if config.activation_checkpointing:
            # Stopping early would leave out the collectives behind the last tensor that is needed.
            compute = partial(
                checkpoint, _asked_at_once(compute), use_reentrant=False, early_stop=False, context_fn=passes
            )
        vars(block)["forward"] = compute


class _Asked(torch.autograd.Function):
    """The identity, whose backward pass asks for what it saved: its output."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(output)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        _ = ctx.saved_tensors
        return gradient


def _asked_at_once(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Has the second pass precede everything of the backward pass, collectives that need nothing of it included."""

    def asked(*arguments: Any, **named: Any) -> Any:
        output = compute(*arguments, **named)
        if isinstance(output, Tensor):
            return _Asked.apply(output)
        first, *others = output
        return _Asked.apply(first), *others

    return asked
