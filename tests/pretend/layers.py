"""Every router with every dispatch, in one layer, on the pretend device and on the CPU beside it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe.config import MoEConfig
from tests.pretend.synchronisation import Watch

WIDTH, EXPERTS, TOKENS = 16, 8, 48
ROUTERS: dict[str, dict[str, Any]] = {
    "top_k": {"kind": "top_k", "aux_loss": 0.01, "z_loss": 0.01},
    "top_k with a bias": {"kind": "top_k", "score": "sigmoid", "aux_loss": 0.0, "bias_rate": 0.01},
    "top_k with a capacity": {"kind": "top_k", "capacity_factor": 1.25},
    "top_k by position": {"kind": "top_k", "capacity_factor": 1.25, "drop_policy": "position"},
    "sinkhorn": {"kind": "sinkhorn"},
    "base": {"kind": "base"},
    "expert_choice": {"kind": "expert_choice"},
    "sparse_ot": {"kind": "sparse_ot"},
    "sparse_ot over all ranks": {"kind": "sparse_ot", "potentials": "global", "gate": "straight_through"},
}
"""At least one of each kind, with what has code of its own."""


@dataclass(frozen=True)
class Pass:
    """What one training pass of a layer showed.

    Attributes:
        refused: the combination is not allowed, and why; empty: it is.
        has_cap: the router limits how many of a rank's tokens an expert gets.
        forward: synchronisations of the forward pass by line and kind.
        backward: of the backward pass and the update of the router's bias.
        staged: copies from pageable memory.
        error: largest difference of outputs and gradients from those of the CPU.
    """

    refused: str = ""
    has_cap: bool = False
    forward: Counter[str] = field(default_factory=Counter)
    backward: Counter[str] = field(default_factory=Counter)
    staged: Counter[str] = field(default_factory=Counter)
    error: float = 0.0

    @property
    def waits(self) -> Counter[str]:
        """Synchronisations of the whole pass."""
        return self.forward + self.backward


def passes(
    dispatch: str, expert_parallel: int, relay_ranks: int | None, routers: Iterable[str] = tuple(ROUTERS)
) -> dict[str, Pass]:
    """Takes routers through a layer of a dispatch.

    Args:
        dispatch: how tokens travel.
        expert_parallel: ranks of the layer: all.
        relay_ranks: ranks of a node in hierarchical dispatch; None: there is one node.
        routers: keys of `ROUTERS`.
    """
    from trainer.distributed.groups import divide_ranks, unite_ranks

    divide_ranks(expert_parallel, 1, relay_ranks)
    found = {name: _pass(ROUTERS[name], dispatch, expert_parallel) for name in routers}
    unite_ranks()
    return found


def _pass(router: dict[str, Any], dispatch: str, expert_parallel: int) -> Pass:
    top_k = 1 if router["kind"] == "base" else 2
    document = {"num_experts": EXPERTS, "top_k": top_k, "expert_hidden": 24, "router": router, "dispatch": dispatch}
    try:
        config = MoEConfig.model_validate(document)
        of_cpu, of_device = (_layer(config, expert_parallel, device) for device in ("cpu", "pretend"))
    except ValueError as error:
        return Pass(refused=str(error))
    _train(of_cpu, "cpu")
    _train(of_device, "pretend")  # the first pass sets up what the later ones keep
    of_cpu.zero_grad()
    of_device.zero_grad()
    expected = _train(of_cpu, "cpu")
    inputs = _inputs("pretend")
    with Watch() as forward:
        output = _forward(of_device, inputs)
    with Watch() as backward:
        output.sin().sum().backward()
        of_device.router.update_bias()
    found = _results(of_device, output, inputs)
    return Pass(
        has_cap=of_device.router.capacity(TOKENS) is not None,
        forward=forward.lines(),
        backward=backward.lines(),
        staged=forward.staged + backward.staged,
        error=max(float((one.cpu() - other).abs().max()) for one, other in zip(found, expected, strict=True)),
    )


def _layer(config: MoEConfig, expert_parallel: int, device: str) -> Any:
    from moe.coherent_layer import CoherentMoELayer
    from moe.layer import PlacedMoELayer, transformer_config

    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=1, expert_parallel=expert_parallel, dtype=torch.float32
    )
    kind = CoherentMoELayer if config.dispatch == "coherent" else PlacedMoELayer
    slots = np.random.default_rng(5).permutation(EXPERTS)
    layer = kind(config, megatron, 0, 7, slots)
    with torch.no_grad():
        layer.router.weight.mul_(20.0)
    return layer.train().to(device)


def _train(layer: Any, device: str) -> list[Tensor]:
    inputs_TD = _inputs(device)
    output_TD = _forward(layer, inputs_TD)
    output_TD.sin().sum().backward()
    layer.router.update_bias()
    return _results(layer, output_TD, inputs_TD)


def _inputs(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(torch.distributed.get_rank())
    return torch.randn(TOKENS, WIDTH, generator=generator).to(device).requires_grad_()


def _forward(layer: Any, tokens_TD: Tensor) -> Tensor:
    if not hasattr(layer, "moves_tokens"):
        return layer(tokens_TD[:, None])[:, 0]
    from moe.dispatch.residency import Residency, return_home

    residency = Residency.home(TOKENS, layer.ep_group, tokens_TD.device)
    rows_TD, fed_TD, residency = layer(tokens_TD, residency, _normalised)
    return return_home(rows_TD + fed_TD, residency)


def _normalised(rows: Tensor) -> Tensor:
    return rows / rows.square().mean(dim=-1, keepdim=True).sqrt()


def _results(layer: Any, output: Tensor, tokens: Tensor) -> list[Tensor]:
    gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
    assert tokens.grad is not None
    assert gradients
    return [output.detach(), tokens.grad, *gradients]
