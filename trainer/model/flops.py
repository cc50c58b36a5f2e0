"""A call of a network on the meta device, whose tensors have shapes and no values, and its arithmetic.

Counted are the operations of matrix products: what a model must compute, whatever its ranks repeat (activation
checkpointing), share (tensor and expert parallelism) or pad. Attention counts every pair of tokens, masked or not.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.config.derived import task_names
from trainer.config.model import SegmentNetworkConfig, transition
from trainer.config.run import RunConfig
from trainer.config.task import FlowTaskConfig
from trainer.flow import Condition
from trainer.flow.objective import Aligned, CausalTransition, EncodedSource, Transition
from trainer.flow.question import FromSource, HeadVelocities, NextStates, Question, WithProjection
from trainer.model.build import meta_network
from trainer.model.transition import chain_of


def call_on_meta(
    network: nn.Module, config: RunConfig, *questions: Question, segment: int | None = None
) -> tuple[Tensor, ...]:
    """Returns the output of a network on the meta device for one example and some questions.

    Args:
        segment: of time that a sampler is in; None: the time of the example decides.
    """
    with torch.device("meta"):
        inputs: list[Any] = [
            torch.empty(1, *one.shape, dtype=torch.int64 if one.integer else torch.float32)
            for one in config.model.inputs(config.state_shape)
        ]
        if config.flow is not None:
            context = None if config.context_shape is None else torch.empty(1, *config.context_shape)
            caption = torch.empty(1, config.caption_width) if config.caption_width else None
            task = torch.empty(1, dtype=torch.int64) if task_names(config) else None
            inputs += [Condition(context=context, segment=segment, caption=caption, task=task), *questions]
        output = network(*inputs)
    return output if isinstance(output, tuple) else (output,)


def questions_in_training(config: RunConfig) -> tuple[Question, ...]:
    """The questions, on the meta device, that the objective of a run asks its network for one example."""
    if config.flow is None or not isinstance(config.task, FlowTaskConfig):
        return ()
    with torch.device("meta"):
        match config.flow.objective:
            case Aligned():
                return (WithProjection(),)
            case CausalTransition(draws=draws) if isinstance(config.model, transition.CausalTransitionConfig):
                chain = chain_of(config.model, config.state_shape)
                following = torch.empty(chain.read_at_once, 1, *chain.shape)
                times = torch.empty(draws, chain.read_at_once, 1, chain.num_tokens)
                return (NextStates(following, following.expand(draws, *following.shape), times),)
            case EncodedSource():
                return (FromSource(torch.empty(1, *config.state_shape), lambda x_0: x_0),)
            case Transition(draws=draws):
                tokens = config.model.tokens(config.state_shape)
                return (HeadVelocities(torch.empty(draws, 1, *config.state_shape), torch.empty(draws, 1, tokens)),)
    return ()


OPERATIONS_PER_MULTIPLY_ADD = 2
PASSES = 3
"""A training step multiplies by every matrix once forward, and once for each of the two gradients backward."""


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts operations while entered. Attention is computed as plain products, so that its bits may differ."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_GROUPED) as counter:
        yield counter


def training_flops(config: RunConfig) -> int | None:
    """Floating-point operations of learning from one example: Chowdhery et al., "PaLM", 2022, appendix B.

    None for a user's network that makes no matrix products, or cannot run without values.
    """
    forward = forward_flops(config, *questions_in_training(config))
    return None if forward is None else PASSES * forward


def forward_flops(config: RunConfig, *questions: Question) -> int | None:
    """Operations of the forward pass of one example; of a mixture, only those of the experts that tokens visit."""
    counter = _counted(config, *questions)
    return None if counter is None else counter.get_total_flops() or None


class Product(NamedTuple):
    """Operations of a module's matrix products or of its attention; `module` is its name in the network."""

    module: str
    kind: Literal["gemm", "attention"]
    flops: int


def forward_products(config: RunConfig, *questions: Question) -> list[Product] | None:
    """Products of the forward pass of one example; those of one kind in one module are added up.

    None as for `training_flops`.
    """
    counter = _counted(config, *questions)
    if counter is None:
        return None
    of_modules = {name: Counter(counts) for name, counts in counter.get_flop_counts().items() if name != "Global"}
    own = {name: counts.copy() for name, counts in of_modules.items()}
    for name, counts in of_modules.items():
        around = next((one for one in _around(name) if one in own), None)
        if around is not None:
            own[around].subtract(counts)
    return [
        Product(name.partition(".")[2], "attention" if operator in _ATTENTION else "gemm", flops)
        for name, counts in own.items()
        for operator, flops in counts.items()
        if flops
    ] or None


def _around(module: str) -> Iterator[str]:
    """Names of the modules that contain a module, from the inside."""
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def _counted(config: RunConfig, *questions: Question) -> FlopCounterMode | None:
    segment = 0 if isinstance(config.model, SegmentNetworkConfig) else None
    with torch.no_grad(), counting() as counter:
        try:
            call_on_meta(meta_network(config).eval(), config, *questions, segment=segment)
        except Exception:  # whatever a network of one's own raises without values
            if config.model.network is None:
                raise
            return None
    return counter


def _grouped(rows: Any, matrices: Any, *_: Any, **__: Any) -> int:
    """Operations of a grouped product, each row with its group's matrix; shapes [R, D] and [G, D, F]."""
    return OPERATIONS_PER_MULTIPLY_ADD * prod(rows) * matrices[-1]


_ATTENTION = {torch.ops.aten.bmm, torch.ops.aten.baddbmm}
_GROUPED = {torch.ops.aten._grouped_mm: _grouped} if hasattr(torch.ops.aten, "_grouped_mm") else {}
