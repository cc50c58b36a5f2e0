"""How much arithmetic a network asks for, by formula.

Counted are the multiply-adds of matrix products: what a model must compute, whatever its ranks repeat (activation
checkpointing), share (tensor and expert parallelism) or pad. Attention counts every pair of tokens, masked or not.
"""

import math

from trainer.config.model import AutoencoderConfig, BlockwiseConfig, BlockwiseMLPConfig, DiTConfig, GPTConfig, MLPConfig
from trainer.config.run import RunConfig
from trainer.flow.context import SemanticMapConfig
from trainer.model.build import dense_inner, tokens_per_example
from trainer.model.gpt import BYTE_VALUES
from trainer.model.mlp import INPUT_WAVES

OPERATIONS_PER_MULTIPLY_ADD = 2
PASSES = 3
"""A training step multiplies by every matrix once forward, and once for each of the two gradients backward."""


def training_flops(config: RunConfig) -> int:
    """Floating-point operations that learning from one example takes.

    Source: Chowdhery et al., "PaLM", 2022, appendix B.

    Args:
        config: the run.

    Returns:
        Three times those of the forward pass, two for each multiply-add.
    """
    return PASSES * OPERATIONS_PER_MULTIPLY_ADD * forward_multiply_adds(config)


def forward_multiply_adds(config: RunConfig) -> int:
    """Multiply-adds of the forward pass of one example; of a mixture, those of the experts that a token visits."""
    match config.model:
        case DiTConfig():
            return _dit(config, config.model)
        case GPTConfig():
            return _gpt(config, config.model)
        case AutoencoderConfig():
            return _autoencoder(config, config.model)
        case MLPConfig():
            return _mlp(config, config.model)
        case BlockwiseConfig():
            return _blockwise(config, config.model)
        case BlockwiseMLPConfig():
            return _blockwise_mlp(config, config.model)


def _dit(config: RunConfig, model: DiTConfig) -> int:
    tokens, width = tokens_per_example(config), model.hidden
    patch_values = config.state_shape[0] * model.patch_size**2
    read, reading = _context(config)
    embedding = 2 * width**2 + tokens * width * (patch_values + read * model.patch_size**2) + reading
    attention = 4 * tokens * width**2 + 2 * tokens**2 * width
    modulation = 6 * width**2
    unembedding = 2 * width**2 + tokens * width * patch_values
    blocks = model.num_layers * (attention + modulation + tokens * _feed_forward(config))
    return embedding + blocks + unembedding


def _context(config: RunConfig) -> tuple[int, int]:
    """Channels that are read beside the state, and the multiply-adds that made them of the context."""
    if config.flow is None or config.context_shape is None:
        return 0, 0
    channels = config.context_shape[0]
    if isinstance(config.flow.context, SemanticMapConfig):
        return config.state_shape[0], channels * math.prod(config.state_shape)
    return channels, 0


def _gpt(config: RunConfig, model: GPTConfig) -> int:
    tokens, width = tokens_per_example(config), model.hidden
    projections = (2 * width + model.key_value_width) * width
    attention = tokens * projections + 2 * tokens**2 * width
    blocks = model.num_layers * (attention + tokens * _feed_forward(config))
    return blocks + tokens * width * BYTE_VALUES


def _autoencoder(config: RunConfig, model: AutoencoderConfig) -> int:
    shape: tuple[int, ...] = tuple(config.data.shape)
    channels, height, width = shape
    folded, places = channels * model.factor**2, (height // model.factor) * (width // model.factor)
    latents = 2 * model.hidden * model.latent_channels + 9 * model.latent_channels * model.hidden
    return places * (18 * folded * model.hidden + latents + model.num_layers * 18 * model.hidden**2)


def _mlp(config: RunConfig, model: MLPConfig) -> int:
    values, width = math.prod(config.state_shape), model.hidden
    embedding = 2 * width**2 + width * values * (1 + 2 * INPUT_WAVES)
    blocks = model.num_layers * (3 * width**2 + _feed_forward(config))
    return embedding + blocks + 2 * width**2 + width * values


def _blockwise(config: RunConfig, model: BlockwiseConfig) -> int:
    """The trunk, the blocks of one segment and the projection; the residual network takes no part in learning them."""
    tokens, width, area = tokens_per_example(config), model.hidden, model.patch_size**2
    read, reading = _context(config)
    patch_values = config.state_shape[0] * area
    steering, steered_by = (tokens, 2 * width) if model.trunk_layers else (1, width)
    embeddings = 2 if model.trunk_layers else 1
    embedding = 2 * width**2 + embeddings * tokens * width * (patch_values + read * area) + reading
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + tokens * _feed_forward(config)
    trunk = model.trunk_layers * (block + 6 * width**2)
    own = model.segment_layers * (block + steering * 6 * steered_by * width)
    unembedding = steering * 2 * steered_by * width + tokens * width * patch_values
    return embedding + trunk + own + unembedding + tokens * _projection(model)


def _projection(model: BlockwiseConfig) -> int:
    """Multiply-adds of one token on its way to a teacher's features."""
    if model.teacher_features is None:
        return 0
    inner = model.projection_hidden or 2 * model.hidden
    return inner * (model.hidden + inner + model.teacher_features)


def _blockwise_mlp(config: RunConfig, model: BlockwiseMLPConfig) -> int:
    values, width = math.prod(config.state_shape), model.hidden
    return (values + 1) * width + (model.num_layers - 1) * width**2 + width * values


def _feed_forward(config: RunConfig) -> int:
    """Multiply-adds of one token in the feed-forward part of a block."""
    width = config.model.hidden
    if config.moe is None:
        return 2 * width * dense_inner(config)
    inner = config.moe.top_k * config.moe.expert_hidden + (config.moe.shared_expert_hidden or 0)
    return width * config.moe.num_experts + 2 * width * inner
