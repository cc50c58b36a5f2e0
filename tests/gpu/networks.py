"""A diffusion transformer of any size, with a loss."""

import torch
from torch import Tensor

from trainer.config.model import DiTConfig
from trainer.flow.condition import Condition
from trainer.model.dit import DiT
from trainer.model.flops import counting
from trainer.model.network import NetworkSpec

STATE = (4, 32, 32)
TOKENS = 256
"""Of an example: patches of two by two."""


def diffusion_transformer(hidden: int, layers: int, dtype: torch.dtype, device: torch.device) -> DiT:
    """A transformer whose every parameter is drawn, so that no gradient is zero.

    Args:
        hidden: width, a multiple of 64.
        layers: blocks.
        dtype: of its parameters.
        device: where it is.
    """
    config = DiTConfig(hidden=hidden, num_layers=layers, num_heads=hidden // 64, patch_size=2)
    with device:
        network = DiT(NetworkSpec(config=config, state_shape=STATE, num_classes=10))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return network.to(dtype)


def loss_of(network: DiT, examples: int) -> Tensor:
    """A loss of the same drawn examples for every network."""
    like = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    x_t, t = torch.randn(examples, *STATE, generator=generator), torch.rand(examples, generator=generator)
    labels = torch.arange(examples) % 10
    states = x_t.to(like.device, torch.promote_types(like.dtype, torch.float32))
    return network(states, t.to(like.device), Condition(labels.to(like.device))).square().mean()


def forward_flops(network: DiT) -> float:
    """Operations of the forward pass of one example."""
    with torch.no_grad(), counting() as counter:
        loss_of(network, 1)
    return float(counter.get_total_flops())
