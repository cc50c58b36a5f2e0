"""From a configuration to a network."""

import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from moe.config import MoEConfig
from moe.seeds import derive_seed
from trainer.config.derived import expert_shapes, task_names
from trainer.config.layout import Layout
from trainer.config.run import RunConfig
from trainer.config.sections import fits
from trainer.flow import target
from trainer.flow.context import FirstFrame, SemanticMap
from trainer.model import (
    autoencoder,
    blockwise,
    dit,
    encoded,
    equivariant,
    gpt,
    mlp,
    representation,
    transition,
)
from trainer.model.adapted import adapt
from trainer.model.conditioning import FirstFrameReader, SpatialRescaler
from trainer.model.network import Builders, Network, NetworkSpec, frozen_tensors
from trainer.model.parallel.division import LinearShare, divide_blocks
from trainer.model.values import NothingDrawn, bare_parameters, give_memory, initialised

NETWORKS: Builders = (
    dit.NETWORKS
    | blockwise.NETWORKS
    | gpt.NETWORKS
    | mlp.NETWORKS
    | autoencoder.NETWORKS
    | transition.NETWORKS
    | encoded.NETWORKS
    | equivariant.NETWORKS
    | representation.NETWORKS
)
"""The networks by their settings, as the file of each lists them; a custom class of settings has a `network`."""


def build_model(config: RunConfig, layout: Layout) -> Network:
    """This rank's network with its initial weights, in float32 on the CPU, on Megatron's process groups."""
    network = bare_network(config, layout)
    give_memory(network, lambda parameter: torch.empty(parameter.shape, dtype=parameter.dtype))
    return initialised(network, config.run.seed)


def bare_network(config: RunConfig, layout: Layout) -> Network:
    """This rank's network on Megatron's process groups, parameters on the meta device and buffers on the CPU.

    Weights come from :class:`trainer.model.values.DrawnValues`, equal for any division; a custom network may draw its
    own.
    """
    draws_itself = not hasattr(getattr(_builder(config), "__self__", _builder(config)), "initial")
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "model")) if draws_itself else None
    with nullcontext() if draws_itself else bare_parameters():
        network = _divided(_network(config, _mixture(config, layout), generator), layout)
    return initialised(network, config.run.seed) if draws_itself else network  # layers that it was given say theirs


def dense_parameters(config: RunConfig, tensor_parallel: int = 1) -> list[int]:
    """Number of elements of each dense parameter on one rank, routers included, without building the network."""
    return [math.prod(shape) for shape in dense_shapes(config, tensor_parallel).values()]


def frozen_parameters(config: RunConfig) -> int:
    """Number of elements of the frozen weights below adapters, which every rank holds; 0 without adapters."""
    return sum(tensor.numel() for _, tensor in frozen_tensors(meta_network(config)))


def parameter_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its logical name, dense ones in the order of the network, then the experts."""
    experts = {
        f"blocks.{layer}.feed_forward.experts.{expert}.{name}": shape
        for layer in range(config.model.num_layers)
        for expert in range(config.moe.num_experts if config.moe else 0)
        for name, shape in expert_shapes(config).items()
    }
    return {**dense_shapes(config), **experts}


def expert_stacks(config: RunConfig) -> list[str]:
    """Names of the stacked expert parameters, layer by layer, without the numbers of experts."""
    layers = range(config.model.num_layers)
    return [f"blocks.{layer}.feed_forward.experts.{name}" for layer in layers for name in expert_shapes(config)]


def inherited_shapes(config: RunConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter that `model.init_from` must have, by its logical name."""
    new = config.model.new_parameters
    return {name: shape for name, shape in parameter_shapes(config).items() if not name.startswith(new)}


def dense_shapes(config: RunConfig, tensor_parallel: int = 1) -> dict[str, tuple[int, ...]]:
    """Shapes by name of the parameters that every rank holds, in the order of the network, without building it."""
    network = meta_network(config, tensor_parallel)
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


def meta_network(config: RunConfig, tensor_parallel: int = 1) -> Network:
    """The network of one rank on the meta device, without values and without the experts of mixtures."""
    moe = config.moe
    mixture = None if moe is None else lambda _: _OnMeta(config.model.hidden, moe)
    with torch.device("meta"), NothingDrawn():
        model = _network(config, mixture, generator=None)
        if tensor_parallel > 1:
            divide_blocks(
                model.blocks,
                columns=lambda linear, _: LinearShare(linear, 1, tensor_parallel),
                rows=lambda linear: LinearShare(linear, tensor_parallel, 1),
            )
    return model


def _divided(network: Network, layout: Layout) -> Network:
    if layout.tensor_parallel > 1:
        from trainer.model.parallel.tensor_parallel import ColumnLinear, RowLinear  # Megatron takes seconds to import

        divide_blocks(network.blocks, ColumnLinear, RowLinear)
    return network


def _mixture(config: RunConfig, layout: Layout) -> Callable[[int], nn.Module] | None:
    if config.moe is None:
        return None

    from moe.coherent_layer import CoherentMoELayer  # Megatron takes seconds to import
    from moe.layer import PlacedMoELayer, transformer_config

    mixture_config = config.moe
    layer_type = CoherentMoELayer if mixture_config.dispatch == "coherent" else PlacedMoELayer
    megatron = transformer_config(
        mixture_config,
        hidden=config.model.hidden,
        num_layers=config.model.num_layers,
        num_heads=config.model.heads or 1,  # of no effect on mixture layers, and above 0
        expert_parallel=layout.expert_parallel,
        dtype=torch.float32,
    )
    return lambda layer: layer_type(
        mixture_config, megatron, layer, config.run.seed, layout.slot_to_expert(layer), layout.hops
    )


VISITED = "experts"
"""Name of the module whose products are those of the experts that a token visits."""


class _OnMeta(nn.ModuleDict):
    """The dense part of a mixture, with its order and names; a call also does the products of a token's experts."""

    def __init__(self, hidden: int, moe: MoEConfig) -> None:
        super().__init__({"router": nn.Linear(hidden, moe.num_experts, bias=False)})
        shared = moe.shared_expert_hidden or 0
        if shared:
            first, second = nn.Linear(hidden, shared, bias=False), nn.Linear(shared, hidden, bias=False)
            self["shared_experts"] = nn.Sequential(OrderedDict(linear_fc1=first, linear_fc2=second))
        self[VISITED] = _Visited(hidden, moe.top_k * moe.expert_hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns values of the shape of the tokens [.., D]."""
        self["router"](tokens)
        if "shared_experts" in self:
            self["shared_experts"](tokens)
        return self[VISITED](tokens)


class _Visited(nn.Module):
    """The two products of the experts that a token visits; their weights are made for the call alone."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self._shape = hidden, inner

    def forward(self, tokens: Tensor) -> Tensor:
        inner = tokens @ tokens.new_empty(self._shape)
        return inner @ inner.new_empty(self._shape[::-1])


def _builder(config: RunConfig) -> Callable[[NetworkSpec[Any]], Network]:
    settings = type(config.model)
    build = NETWORKS.get(settings, settings.network)
    assert build is not None, "settings without a builder are refused when they are read"
    return build


def _network(
    config: RunConfig, mixture: Callable[[int], nn.Module] | None, generator: torch.Generator | None
) -> Network:
    network = _builder(config)(
        NetworkSpec(
            config=config.model,
            state_shape=config.state_shape,
            num_classes=config.num_labels,
            num_fields=1 if config.flow is None else target.num_fields(config.flow.target),
            mixture=mixture,
            context_channels=config.context_channels,
            read_context=_context_reader(config),
            caption_width=config.caption_width,
            predicts_data=config.flow is not None and isinstance(config.flow.target, target.Data),
            generator=generator,
        )
    )
    if not isinstance(network, nn.Module) or not isinstance(getattr(network, "blocks", None), nn.ModuleList):
        raise ValueError(
            f"model: {config.model.kind} builds a {type(network).__name__}, which is not a torch module with `blocks`; "
            "give it a torch.nn.ModuleList of its layers by that name"
        )
    return adapt(network, config.model.adapters, len(task_names(config)))


def _context_reader(config: RunConfig) -> nn.Module | None:
    """The layer that joins the context to the state, if the context needs one."""
    if config.flow is None or config.context_shape is None:
        return None
    context = config.flow.context
    if isinstance(context, FirstFrame) and context.reading != "concat":
        return FirstFrameReader(context.channels, with_details=context.reading == "shift_fourier")
    if not isinstance(context, SemanticMap):
        return None
    channels, height, _ = config.context_shape
    _, state_height, _ = config.state_shape
    halvings = (height // state_height).bit_length() - 1
    return SpatialRescaler(channels, config.context_channels, halvings)


def check_rates(config: RunConfig) -> None:
    if not config.optim.rates:
        return
    names = list(parameter_shapes(config))
    for key in config.optim.rates:
        if any(fits(key, name) for name in names):
            continue
        parts = dict.fromkeys(part for name in names for part in name.split(".") if not part.isdigit())
        near = get_close_matches(key.rpartition(".")[2], parts, n=3) or list(parts)
        raise ValueError(
            f"optim.rates.{key}: no part of the name of a parameter begins so; use {', '.join(near)}, or remove it"
        )
