"""An equivariant network of atoms in space, which computes with invariants and difference vectors alone.

Shape suffixes: B batch, N atoms, D width, W bells of the distances, 3 axes.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.model.equivariant import DISTANCES, OTHERS, VECTORS, EquivariantConfig
from trainer.flow.condition import Condition
from trainer.model.conditioning import TIME_SCALE, time_embedding, wave_embedding
from trainer.model.network import Builders, Constant, Initial, Network, NetworkSpec, computing_dtype, xavier


class Equivariant(Network):
    """Rounds of messages between all atoms; the prediction is a sum of vectors between them.

    The prediction is a vector for each free atom, and 0 for the others. Where the data are predicted, the middle of the
    ends is added. It rotates and reflects with state and ends, and ignores translations. At initialisation the sum is
    0.
    """

    centers: Tensor

    def __init__(self, spec: NetworkSpec[EquivariantConfig]) -> None:
        super().__init__()
        config = spec.config
        self.hidden, self.predicts_data = config.hidden, spec.predicts_data
        centers = torch.linspace(0, config.radius, config.bells)
        self.register_buffer("centers", centers, persistent=False)
        self.steepness = (config.bells / config.radius) ** 2 / 2
        bells, species = DISTANCES * config.bells, spec.context_channels - OTHERS
        self.embed_atom = nn.Linear(species + 1 + bells, config.hidden)
        self.embed_time = time_embedding(config.hidden)
        self.blocks = nn.ModuleList(Messages(config.hidden, bells) for _ in range(config.num_layers))
        self.to_pairs = Pairwise(config.hidden, bells)
        self.pair_weights = nn.Linear(config.hidden, VECTORS, bias=False)
        self.end_weights = nn.Sequential(
            nn.Linear(config.hidden, config.hidden), nn.SiLU(), nn.Linear(config.hidden, 2)
        )

    def initial(self, name: str, shape: tuple[int, ...]) -> Initial:
        at_zero = ("pair_weights.weight", "end_weights.2.weight")
        return Constant(0.0) if name.endswith("bias") or name in at_zero else xavier(shape)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Float32 [B, 3, 1, N] of states [B, 3, 1, N] at times [B], between ends [B, 7 + S, 1, N] in the context."""
        assert condition.context is not None
        context = condition.context[:, :, 0].transpose(1, 2).float()
        x, reactant, product = x_t[:, :, 0].transpose(1, 2).float(), context[..., :3], context[..., 3:6]
        kinds_BNS, free_BN1 = context[..., 6:], context[..., -1:]
        present_BN = kinds_BNS[..., :-1].sum(-1) > 0
        dtype = computing_dtype(self)
        between = [points[:, :, None] - points[:, None] for points in (x, reactant, product)]
        pairs_BNNW = self._bells(between).to(dtype)
        ends = [reactant - x, product - x, reactant - product]
        atoms_BND = self.embed_atom(torch.cat([kinds_BNS.to(dtype), self._bells(ends).to(dtype)], dim=-1))
        atoms_BND = atoms_BND + self.embed_time(wave_embedding(TIME_SCALE * t, self.hidden).to(dtype))[:, None]
        for block in self.blocks:
            atoms_BND = block(atoms_BND, pairs_BNNW, present_BN)
        weights_BNN3 = self.pair_weights(self.to_pairs(atoms_BND, pairs_BNNW)).float() * present_BN[:, None, :, None]
        weights_BN2 = self.end_weights(atoms_BND).float()
        moved = weights_BN2[..., :1] * ends[0] + weights_BN2[..., 1:] * ends[1]
        for number, vectors_BNN3 in enumerate(between):
            shortened = vectors_BNN3 / (1 + vectors_BNN3.square().sum(-1, keepdim=True))
            moved = moved + (weights_BNN3[..., number, None] * shortened).sum(2)
        predicted = moved * free_BN1
        if self.predicts_data:
            predicted = predicted + (reactant + product) / 2
        return predicted.transpose(1, 2)[:, :, None]

    def _bells(self, vectors: list[Tensor]) -> Tensor:
        """Gaussian bells [..., W] of the lengths of vectors [..., 3]; a smooth root keeps the gradient at 0 finite."""
        lengths = torch.stack([(vector.square().sum(-1) + 1e-8).sqrt() for vector in vectors], dim=-1)
        return torch.exp(-self.steepness * (lengths[..., None] - self.centers).square()).flatten(-2)


class Pairwise(nn.Module):
    """A layer over pairs of atoms [B, N, N, D], from both atoms and the bells of their distances."""

    def __init__(self, hidden: int, bells: int) -> None:
        super().__init__()
        self.of_first, self.of_second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.of_pair = nn.Linear(bells, hidden, bias=False)

    def forward(self, atoms_BND: Tensor, pairs_BNNW: Tensor) -> Tensor:
        joined = self.of_first(atoms_BND)[:, :, None] + self.of_second(atoms_BND)[:, None]
        return functional.silu(joined + self.of_pair(pairs_BNNW))


class Messages(nn.Module):
    """Adds to each atom the messages that other atoms send to it."""

    def __init__(self, hidden: int, bells: int) -> None:
        super().__init__()
        self.pairwise = Pairwise(hidden, bells)
        self.message = nn.Linear(hidden, hidden)
        self.update = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def forward(self, atoms_BND: Tensor, pairs_BNNW: Tensor, present_BN: Tensor) -> Tensor:
        sent_BNND = functional.silu(self.message(self.pairwise(atoms_BND, pairs_BNNW)))
        mask_BNNX = present_BN[:, None, :, None].to(sent_BNND.dtype)
        # Means, whose size does not depend on how many atoms there are.
        received_BND = (sent_BNND * mask_BNNX).sum(2) / mask_BNNX.sum(2).clamp_min(1)
        normal_BND = functional.layer_norm(atoms_BND, atoms_BND.shape[-1:])
        return atoms_BND + self.update(torch.cat([normal_BND, received_BND], dim=-1))


NETWORKS: Builders = {EquivariantConfig: Equivariant}
"""From a configuration to a network."""
