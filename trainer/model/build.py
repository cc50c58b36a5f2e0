"""From a configuration to a network."""

import math
from collections.abc import Callable

import torch
from torch import nn

from moe.config import MoEConfig
from moe.random.seed import derive_seed
from trainer.config.layout import Layout
from trainer.config.model import AutoencoderConfig, BlockwiseConfig, BlockwiseMLPConfig, DiTConfig, GPTConfig, MLPConfig
from trainer.config.run import RunConfig
from trainer.flow import target
from trainer.flow.context import SemanticMapConfig
from trainer.model import autoencoder, blockwise, blockwise_mlp, dit, gpt, mlp
from trainer.model.layer.spatial_rescaler import SpatialRescaler
from trainer.model.network import Network
from trainer.model.parallel.division import LinearShare, divide_blocks


def build_model(config: RunConfig, layout: Layout) -> Network:
    """Builds this rank's network on the process groups of ``megatron.core.parallel_state``.

    The initial weights are a function of ``run.seed`` alone: equal on every rank for the dense part, and for each
    expert wherever it lives.

    Args:
        config: the run.
        layout: where the experts are, and how many ranks share a block; they cut their parts out of whole blocks.

    Returns:
        The network in float32 on the CPU; the engine moves and casts it.
    """
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "model"))
    if config.moe is None:
        network = _network(config, lambda _: _dense_feed_forward(config), generator)
        return _divided(network, layout)

    from moe.coherent_layer import CoherentMoELayer  # Megatron takes seconds to import
    from moe.layer import PlacedMoELayer, transformer_config

    mixture_config = config.moe
    layer_type = CoherentMoELayer if mixture_config.dispatch == "coherent" else PlacedMoELayer
    megatron = transformer_config(
        mixture_config,
        hidden=config.model.hidden,
        num_layers=config.model.num_layers,
        num_heads=config.model.num_heads,
        expert_parallel=layout.expert_parallel,
        dtype=torch.float32,
    )

    def mixture(layer: int) -> nn.Module:
        return layer_type(mixture_config, megatron, layer, config.run.seed, layout.slot_to_expert(layer), layout.hops)

    return _divided(_network(config, mixture, generator), layout)


def tokens_per_example(config: RunConfig) -> int:
    """Tokens of one example: the patches of an image, the bytes that a window predicts, or the example whole."""
    match config.model, config.state_shape:
        case ((DiTConfig(patch_size=patch_size) | BlockwiseConfig(patch_size=patch_size)), (_, height, width)):
            return (height // patch_size) * (width // patch_size)
        case GPTConfig(), (window,):
            return window - 1
        case ((MLPConfig() | BlockwiseMLPConfig() | AutoencoderConfig()), _):
            return 1
    raise AssertionError("the layout lets no other pair through")


def dense_parameters(config: RunConfig, tensor_parallel: int = 1) -> list[int]:
    """Sizes of the parameters that every rank holds, in the order of the network, without building it.

    Args:
        config: the run.
        tensor_parallel: ranks that share the blocks.

    Returns:
        Elements of each dense parameter on one rank, routers included and experts left out.
    """
    return [math.prod(shape) for shape in dense_shapes(config, tensor_parallel).values()]


def expert_parameters(config: RunConfig) -> int:
    """Elements of one expert: two matrices between model width and expert width, no biases."""
    return sum(math.prod(shape) for shape in _expert_shapes(config).values())


def parameter_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the network by its logical name, without building it.

    Args:
        config: the run.

    Returns:
        The dense parameters in the order of the network, then the experts.
    """
    experts = {
        f"blocks.{layer}.feed_forward.experts.{expert}.{name}": shape
        for layer in range(config.model.num_layers)
        for expert in range(config.moe.num_experts if config.moe else 0)
        for name, shape in _expert_shapes(config).items()
    }
    return {**dense_shapes(config), **experts}


def new_parameters(config: RunConfig) -> tuple[str, ...]:
    """What the names of parameters begin with that `model.init_from` need not have."""
    return config.model.init_new if isinstance(config.model, BlockwiseConfig) else ()


def inherited_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter that `model.init_from` must have, by its logical name."""
    new = new_parameters(config)
    return {name: shape for name, shape in parameter_shapes(config).items() if not name.startswith(new)}


def dense_shapes(config: RunConfig, tensor_parallel: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters that every rank holds, by name, in the order of the network, without building it.

    Args:
        config: the run.
        tensor_parallel: ranks that share the blocks.
    """
    network = meta_network(config, tensor_parallel)
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def dense_inner(config: RunConfig) -> int:
    """Width of the dense feed-forward layers."""
    assert not isinstance(config.model, BlockwiseMLPConfig)
    return config.model.feed_forward_hidden or 4 * config.model.hidden


def meta_network(config: RunConfig, tensor_parallel: int = 1) -> Network:
    """The network of one rank without values and without experts, on the meta device.

    Args:
        config: the run.
        tensor_parallel: ranks that share the blocks.
    """

    def feed_forward(_: int) -> nn.Module:
        if config.moe is None:
            return _dense_feed_forward(config)
        return _without_experts(config.model.hidden, config.moe)

    with torch.device("meta"):
        model = _network(config, feed_forward, generator=None)
        if tensor_parallel > 1:
            divide_blocks(
                model.blocks,
                columns=lambda linear, _: LinearShare(linear, 1, tensor_parallel),
                rows=lambda linear: LinearShare(linear, tensor_parallel, 1),
            )
    return model


def _dense_feed_forward(config: RunConfig) -> nn.Module:
    layer = gpt.FeedForward if isinstance(config.model, GPTConfig) else dit.FeedForward
    return layer(config.model.hidden, dense_inner(config))


def _expert_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    if config.moe is None:
        return {}
    hidden, inner = config.model.hidden, config.moe.expert_hidden
    return {"linear_fc1.weight": (inner, hidden), "linear_fc2.weight": (hidden, inner)}


def _divided(network: Network, layout: Layout) -> Network:
    if layout.tensor_parallel > 1:
        from trainer.model.parallel.tensor_parallel import ColumnLinear, RowLinear  # Megatron takes seconds to import

        divide_blocks(network.blocks, ColumnLinear, RowLinear)
    return network


def _without_experts(hidden: int, moe: MoEConfig) -> nn.Module:
    """The parameters of a mixture that every rank holds, in the order and under the names of the layer itself."""
    parts: dict[str, nn.Module] = {"router": nn.Linear(hidden, moe.num_experts, bias=False)}
    if moe.shared_expert_hidden is not None:
        first = nn.Linear(hidden, moe.shared_expert_hidden, bias=False)
        second = nn.Linear(moe.shared_expert_hidden, hidden, bias=False)
        parts["shared_experts"] = nn.ModuleDict({"linear_fc1": first, "linear_fc2": second})
    return nn.ModuleDict(parts)


def _network(config: RunConfig, feed_forward: Callable[[int], nn.Module], generator: torch.Generator | None) -> Network:
    classes = config.data.num_classes
    num_fields = 1 if config.flow is None else target.num_fields(config.flow.target)
    match config.model, config.state_shape:
        case DiTConfig() as model, (channels, height, width):
            read_context, context_channels = _context_reader(config, generator)
            return dit.DiT(
                model,
                shape=(channels, height, width),
                num_classes=classes,
                feed_forward=feed_forward,
                generator=generator,
                num_fields=num_fields,
                context_channels=context_channels,
                read_context=read_context,
            )
        case BlockwiseConfig() as model, (channels, height, width):
            read_context, context_channels = _context_reader(config, generator)
            return blockwise.Blockwise(
                model,
                shape=(channels, height, width),
                num_classes=classes,
                generator=generator,
                num_fields=num_fields,
                context_channels=context_channels,
                read_context=read_context,
            )
        case BlockwiseMLPConfig() as model, (values,):
            return blockwise_mlp.BlockwiseMLP(
                model, num_values=values, num_classes=classes, generator=generator, num_fields=num_fields
            )
        case AutoencoderConfig() as model, (channels, height, width):
            return autoencoder.Autoencoder(model, shape=(channels, height, width), generator=generator)
        case MLPConfig() as model, (values,):
            return mlp.MLP(
                model,
                num_values=values,
                num_classes=classes,
                feed_forward=feed_forward,
                generator=generator,
                num_fields=num_fields,
            )
        case GPTConfig() as model, _:
            return gpt.GPT(model, feed_forward=feed_forward, generator=generator)
    raise AssertionError("the layout lets no other pair through")


def _context_reader(config: RunConfig, generator: torch.Generator | None) -> tuple[nn.Module | None, int]:
    """What makes a context ready to be read beside the state, if anything, and the channels that are read then."""
    if config.flow is None or config.context_shape is None:
        return None, 0
    channels, height, _ = config.context_shape
    if not isinstance(config.flow.context, SemanticMapConfig):
        return None, channels
    state_channels, state_height, _ = config.state_shape
    halvings = (height // state_height).bit_length() - 1
    return SpatialRescaler(channels, state_channels, halvings, generator), state_channels
