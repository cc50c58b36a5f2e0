"""A network that chooses actions.

Shape suffixes: B objects, T states on the way to each, F features of a state, C condition, A actions, D width.
"""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import PolicyMLPConfig
from trainer.config.model.mlp import PolicySizes
from trainer.model.layer.initial import Constant, Initial, xavier
from trainer.model.network import Network, NetworkSpec


class Policy(NamedTuple):
    """What a network says of states; all float32.

    Attributes:
        forward: [B, T, A] logits of the next action, the stop last.
        backward: [B, T, A - 1] logits of the action that led into the state; none stops.
        log_partition: [B] logarithm of the sum of all rewards under the condition.
    """

    forward: Tensor
    backward: Tensor
    log_partition: Tensor


class PolicyMLP(Network):
    """Residual blocks over the features of a state and its condition; at first all actions are equally likely.

    The logarithm of the partition function is computed of the condition alone, by the module ``log_partition``, which
    learns best at a rate of its own (`optim.rates`).
    """

    def __init__(self, config: PolicyMLPConfig, sizes: PolicySizes) -> None:
        super().__init__()
        self.num_backward = sizes.actions - 1
        self.embed_features = nn.Linear(sizes.features, config.hidden)
        self.embed_condition = nn.Linear(sizes.condition, config.hidden, bias=False)
        self.blocks = nn.ModuleList(Block(config.hidden) for _ in range(config.num_layers))
        self.to_forward = nn.Linear(config.hidden, sizes.actions)
        self.to_backward = nn.Linear(config.hidden, sizes.actions - 1) if sizes.backward else None
        self.log_partition = nn.Sequential(
            nn.Linear(sizes.condition, config.hidden), nn.SiLU(), nn.Linear(config.hidden, 1)
        )

    @classmethod
    def build(cls, spec: NetworkSpec[PolicyMLPConfig]) -> Self:
        """Builds the network of a run."""
        return cls(spec.config, spec.config.sizes)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        at_zero = ("to_forward.weight", "to_backward.weight", "log_partition.2.weight")
        return Constant(0.0) if name.endswith("bias") or name in at_zero else xavier(shape)

    def forward(self, features_BTF: Tensor, condition_BC: Tensor) -> Policy:
        """Answers for states [B, T, F] of objects with conditions [B, C]."""
        dtype = self.embed_features.weight.dtype
        condition_BC = condition_BC.to(dtype)
        read_BTD = self.embed_features(features_BTF.to(dtype)) + self.embed_condition(condition_BC)[:, None]
        for block in self.blocks:
            read_BTD = block(read_BTD)
        read_BTD = functional.silu(read_BTD)
        if self.to_backward is None:
            backward = torch.zeros(*read_BTD.shape[:2], self.num_backward, dtype=torch.float32, device=read_BTD.device)
        else:
            backward = self.to_backward(read_BTD).float()
        return Policy(self.to_forward(read_BTD).float(), backward, self.log_partition(condition_BC)[:, 0].float())


class Block(nn.Module):
    """A linear layer of what is above zero, added to what came in."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)

    def forward(self, read_BTD: Tensor) -> Tensor:
        """Returns the values [B, T, D] after the block."""
        return read_BTD + self.linear(functional.silu(read_BTD))
