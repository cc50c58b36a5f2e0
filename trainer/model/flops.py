"""How much arithmetic a network asks for, counted as it runs.

Counted are the operations of matrix products: what a model must compute, whatever its ranks repeat (activation
checkpointing), share (tensor and expert parallelism) or pad. Attention counts every pair of tokens, masked or not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.config.model import SegmentNetworkConfig
from trainer.config.run import RunConfig
from trainer.flow.question import Question
from trainer.model.build import meta_network
from trainer.model.call import call_on_meta, questions_in_training

OPERATIONS_PER_MULTIPLY_ADD = 2
PASSES = 3
"""A training step multiplies by every matrix once forward, and once for each of the two gradients backward."""


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts while it is entered; attention is made of its products, which have another backend's results."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=_GROUPED) as counter:
        yield counter


def training_flops(config: RunConfig) -> int | None:
    """Floating-point operations of learning from one example: Chowdhery et al., "PaLM", 2022, appendix B.

    None for a network of one's own that makes no products, or cannot run without values.
    """
    forward = forward_flops(config, *questions_in_training(config))
    return None if forward is None else PASSES * forward


def forward_flops(config: RunConfig, *questions: Question) -> int | None:
    """Operations of the forward pass of one example; of a mixture, those of a token's experts."""
    segment = 0 if isinstance(config.model, SegmentNetworkConfig) else None
    with torch.no_grad(), counting() as counter:
        try:
            call_on_meta(meta_network(config).eval(), config, *questions, segment=segment)
        except Exception:
            if config.model.network is None:  # not one's own
                raise
            return None
    return counter.get_total_flops() or None


def _grouped(rows: Any, matrices: Any, *_: Any, **__: Any) -> int:
    """Of a product of each row with the matrix of its group; shapes [R, D] and [G, D, F]."""
    return OPERATIONS_PER_MULTIPLY_ADD * prod(rows) * matrices[-1]


_GROUPED = {torch.ops.aten._grouped_mm: _grouped} if hasattr(torch.ops.aten, "_grouped_mm") else {}
