"""From a configuration to a network."""

import math
from collections.abc import Callable

import torch
from torch import nn

from moe.seed import derive_seed
from trainer.config import RunConfig
from trainer.layout import Layout
from trainer.model.dit import DiT, FeedForward


def build_model(config: RunConfig, layout: Layout) -> DiT:
    """Builds this rank's network on the process groups of ``megatron.core.parallel_state``.

    The initial weights are a function of ``run.seed`` alone: equal on every rank for the dense part, and for each
    expert wherever it lives.

    Args:
        config: the run.
        layout: where the experts are.

    Returns:
        The network in float32 on the CPU; the engine moves and casts it.
    """
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "model"))
    if config.moe is None:
        return _dit(config, lambda _: FeedForward(config.model.hidden, dense_inner(config)), generator)

    from moe.layer import PlacedMoELayer, transformer_config  # Megatron takes seconds to import

    mixture_config = config.moe
    megatron = transformer_config(
        mixture_config,
        hidden=config.model.hidden,
        num_layers=config.model.num_layers,
        num_heads=config.model.num_heads,
        expert_parallel=layout.expert_parallel,
        dtype=torch.float32,
    )

    def mixture(layer: int) -> nn.Module:
        return PlacedMoELayer(mixture_config, megatron, layer, config.run.seed, layout.slot_to_expert(layer))

    return _dit(config, mixture, generator)


def dense_parameters(config: RunConfig) -> list[int]:
    """Sizes of the parameters that every rank holds, in the order of the network, without building it.

    Args:
        config: the run.

    Returns:
        Elements of each dense parameter, routers included and experts left out.
    """
    return [math.prod(shape) for shape in _dense_shapes(config).values()]


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
    return {**_dense_shapes(config), **experts}


def dense_inner(config: RunConfig) -> int:
    """Width of the dense feed-forward layers."""
    return config.model.feed_forward_hidden or 4 * config.model.hidden


def _dense_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    def feed_forward(_: int) -> nn.Module:
        if config.moe is None:
            return FeedForward(config.model.hidden, dense_inner(config))
        return nn.ModuleDict({"router": nn.Linear(config.model.hidden, config.moe.num_experts, bias=False)})

    with torch.device("meta"):
        model = _dit(config, feed_forward, generator=None)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def _expert_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    if config.moe is None:
        return {}
    hidden, inner = config.model.hidden, config.moe.expert_hidden
    return {"linear_fc1.weight": (inner, hidden), "linear_fc2.weight": (hidden, inner)}


def _dit(config: RunConfig, feed_forward: Callable[[int], nn.Module], generator: torch.Generator | None) -> DiT:
    return DiT(
        config.model,
        shape=config.data.shape,
        num_classes=config.data.num_classes,
        feed_forward=feed_forward,
        generator=generator,
    )
