"""Networks without attention: of vectors, of points of surfaces, and one that chooses actions.

Shape suffixes: B batch, P values of a vector, D width, 1 the only token of an example; of the policy B objects, T
states on the path to each, F features of a state, C condition, A actions.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model import MLPConfig, PolicyMLPConfig
from trainer.config.model.mlp import INPUT_WAVES, DescriptorMLPConfig
from trainer.flow.condition import Condition
from trainer.model.conditioning import modulate, steering, time_embedding, with_waves
from trainer.model.dit import FeedForward
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, computing_dtype, steered, xavier


class MLP(Network):
    """Residual blocks over a vector and its sinusoids, modulated as in a DiT; the output starts at zero.

    Sines and cosines: Tancik et al., "Fourier Features", 2020.
    """

    def __init__(self, spec: NetworkSpec[MLPConfig]) -> None:
        super().__init__()
        config, num_classes = spec.config, spec.num_classes
        self.hidden, self.null_label = config.hidden, num_classes
        feed_forward = spec.mixture or (lambda _: FeedForward(config.hidden, config.inner))
        self.embed_values = nn.Linear(spec.num_values * (1 + 2 * INPUT_WAVES), config.hidden)
        self.embed_time = time_embedding(config.hidden)
        self.embed_label = nn.Embedding(num_classes + 1, config.hidden)
        self.blocks = nn.ModuleList(Block(config, feed_forward(layer)) for layer in range(config.num_layers))
        self.final_modulation = nn.Linear(config.hidden, 2 * config.hidden)
        self.unembed_values = nn.Linear(config.hidden, spec.num_fields * spec.num_values)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return steered(name, shape, at_zero=("unembed_values",))

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Float32 [B, num_fields P] of states [B, P] at times [B]."""
        return self.unembed_values(self.tokens(x_t, t, condition))[:, 0].float()

    def tokens(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Features of vectors [B, 1, D], which the prediction is made of."""
        dtype = computing_dtype(self)
        steering_BD = steering(self, t, condition.label, dtype)
        seen = x_t.float() if condition.context is None else torch.cat([x_t, condition.context], dim=1).float()
        tokens_B1D = self.embed_values(with_waves(seen).to(dtype))[:, None]
        for block in self.blocks:
            tokens_B1D = block(tokens_B1D, steering_BD)
        shift, scale = self.final_modulation(steering_BD)[:, None].chunk(2, dim=-1)
        return modulate(tokens_B1D, shift, scale)


class Block(nn.Module):
    def __init__(self, config: MLPConfig, feed_forward: nn.Module) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.modulation = nn.Linear(config.hidden, 3 * config.hidden)
        self.feed_forward = feed_forward

    def forward(self, tokens_B1D: Tensor, steering_BD: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(steering_BD)[:, None].chunk(3, dim=-1)
        fed = self.feed_forward(modulate(tokens_B1D, shift, scale))
        return tokens_B1D + gate * functional.dropout(fed, self.dropout, self.training)


class Policy(NamedTuple):
    """Logits of the next action [B, T, A], stop last, of the previous one [B, T, A - 1], log partition [B]; float32."""

    forward: Tensor
    backward: Tensor
    log_partition: Tensor


class PolicyMLP(Network):
    """Residual blocks over state and condition; at first all actions are equally likely.

    The module ``log_partition`` reads the condition alone and learns best at its own rate (`optim.rates`).
    """

    def __init__(self, spec: NetworkSpec[PolicyMLPConfig]) -> None:
        super().__init__()
        config, sizes = spec.config, spec.config.sizes
        self.num_backward = sizes.actions - 1
        self.embed_features = nn.Linear(sizes.features, config.hidden)
        self.embed_condition = nn.Linear(sizes.condition, config.hidden, bias=False)
        self.blocks = nn.ModuleList(PolicyBlock(config.hidden) for _ in range(config.num_layers))
        self.to_forward = nn.Linear(config.hidden, sizes.actions)
        self.to_backward = nn.Linear(config.hidden, sizes.actions - 1) if sizes.backward else None
        self.log_partition = nn.Sequential(
            nn.Linear(sizes.condition, config.hidden), nn.SiLU(), nn.Linear(config.hidden, 1)
        )

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        at_zero = ("to_forward.weight", "to_backward.weight", "log_partition.2.weight")
        return Constant(0.0) if name.endswith("bias") or name in at_zero else xavier(shape)

    def forward(self, features_BTF: Tensor, condition_BC: Tensor) -> Policy:
        """The policy at states [B, T, F] of objects with conditions [B, C]."""
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


class DescriptorMLP(Network):
    """Residual blocks over the signatures of points; features of length 1 tell points apart by their cosine."""

    def __init__(self, spec: NetworkSpec[DescriptorMLPConfig]) -> None:
        super().__init__()
        config, (*_, signatures) = spec.config, spec.state_shape
        self.embed_signatures = nn.Linear(signatures, config.hidden)
        self.blocks = nn.ModuleList(PolicyBlock(config.hidden) for _ in range(config.num_layers))
        self.to_features = nn.Linear(config.hidden, config.features)

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        return Constant(0.0) if name.endswith("bias") else xavier(shape)

    def forward(self, signatures: Tensor) -> Tensor:
        """Float32 [*, W] of length 1 of signatures [*, S]."""
        read = self.embed_signatures(signatures.to(self.embed_signatures.weight.dtype))
        for block in self.blocks:
            read = block(read)
        return functional.normalize(self.to_features(functional.silu(read)).float(), dim=-1)


class PolicyBlock(nn.Module):
    """A residual block: adds a linear layer of ReLU(input) to the input."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, hidden)

    def forward(self, read_BTD: Tensor) -> Tensor:
        return read_BTD + self.linear(functional.silu(read_BTD))


NETWORKS: Builders = {MLPConfig: MLP, PolicyMLPConfig: PolicyMLP, DescriptorMLPConfig: DescriptorMLP}
