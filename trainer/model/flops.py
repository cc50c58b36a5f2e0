"""How much arithmetic a network asks for, by formula.

Counted are the multiply-adds of matrix products: what a model must compute, whatever its ranks repeat (activation
checkpointing), share (tensor and expert parallelism) or pad. Attention counts every pair of tokens, masked or not.
"""

import math
from collections.abc import Mapping

from trainer.config.model import CausalTransitionConfig
from trainer.config.run import RunConfig
from trainer.flow import objective
from trainer.flow.context import FirstFrame, SemanticMap
from trainer.flow.sampler import AnyConfig, Segmented
from trainer.model.first_frame import FirstFrameReader

OPERATIONS_PER_MULTIPLY_ADD = 2
PASSES = 3
"""A training step multiplies by every matrix once forward, and once for each of the two gradients backward."""


def training_flops(config: RunConfig) -> int | None:
    """Floating-point operations of learning from one example: Chowdhery et al., "PaLM", 2022, appendix B."""
    forward = forward_multiply_adds(config)
    return None if forward is None else PASSES * OPERATIONS_PER_MULTIPLY_ADD * (forward + _head(config))


def forward_multiply_adds(config: RunConfig) -> int | None:
    """Multiply-adds of the forward pass of one example without the head; of a mixture, those of a token's experts."""
    network = config.model.multiply_adds(
        config.state_shape, context_channels=config.context_channels, mixture=_mixture(config)
    )
    return None if network is None else network + _context_reader(config) + _captions(config)


def sample_multiply_adds(config: RunConfig, sampler: AnyConfig, calls: Mapping[str, int]) -> int | None:
    """Those that draw one example without guidance and decoding; None if unknown, or where controls add calls."""
    if getattr(config.sample, "controls", ()) and sampler.calls() != dict(calls):
        return None
    network = config.model.sample_multiply_adds(
        config.state_shape,
        calls,
        segments=sampler.segments if isinstance(sampler, Segmented) else 1,
        context_channels=config.context_channels,
        mixture=_mixture(config),
    )
    if network is None:
        return None
    return network + calls["network"] * _context_reader(config) + _captions(config, calls["network"])


def _captions(config: RunConfig, calls: int = 1) -> int:
    """Multiply-adds by which so many calls read the caption of an example."""
    width = config.caption_width
    return config.model.caption_multiply_adds(config.state_shape, width, calls) if width else 0


def _head(config: RunConfig) -> int:
    """Multiply-adds of the call of a head that learning from one example takes."""
    chosen = None if config.flow is None else config.flow.objective
    if isinstance(chosen, objective.EncodedSource):
        return config.model.head_multiply_adds(config.state_shape)
    if not isinstance(chosen, objective.Transition | objective.CausalTransition):
        return 0
    of_a_call = config.model.head_multiply_adds(config.state_shape, draws=chosen.draws)
    if isinstance(config.model, CausalTransitionConfig):  # whose calls are for one token
        return config.model.drawn_tokens(config.state_shape) * of_a_call
    return of_a_call


def _mixture(config: RunConfig) -> int | None:
    """Multiply-adds of one token in a mixture: its router and the experts that it visits."""
    if config.moe is None:
        return None
    width = config.model.hidden
    inner = config.moe.top_k * config.moe.expert_hidden + (config.moe.shared_expert_hidden or 0)
    return width * config.moe.num_experts + 2 * width * inner


def _context_reader(config: RunConfig) -> int:
    context = config.flow and config.flow.context
    match context:
        case SemanticMap() if config.context_shape is not None:
            return config.context_shape[0] * math.prod(config.state_shape)
        case FirstFrame(reading="shift" | "shift_fourier" as reading, channels=channels):
            pixels = math.prod(config.state_shape[1:])
            return FirstFrameReader.multiply_adds(channels, pixels, with_details=reading == "shift_fourier")
    return 0
