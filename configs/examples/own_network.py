"""A network of your own: residual blocks over a point, which read the time beside it.

Shape suffixes: B batch, P values of a point, D width.
"""

from pathlib import Path
from typing import Any, Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from trainer.config.model import NetworkConfig
from trainer.model.network import Network, NetworkSpec


class Residual(Network):
    """Any torch module with `blocks`; engines gather, compile and repeat these one by one."""

    class Config(NetworkConfig, frozen=True):
        """The keys beside `class` in the configuration; class variables say what is fixed, such as its data."""

        hidden: PositiveInt = 64
        """Width of a block."""
        num_layers: PositiveInt = 3
        """Blocks."""
        label_dropout: float = 0.1
        """Share of the labels that is hidden while training; this network reads no labels."""
        init_from: Path | None = None
        """Weights that a run starts with."""

        data_kinds = ("toy",)
        sample_kinds = ("points",)

    def __init__(self, config: Config, num_values: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.embed = nn.Linear(num_values + 1, config.hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(config.hidden, config.hidden)) for _ in range(config.num_layers)
        )
        self.unembed = nn.Linear(config.hidden, num_values)
        for parameter in self.parameters() if generator is not None else ():
            nn.init.normal_(parameter, std=config.hidden**-0.5, generator=generator)

    @classmethod
    def build(cls, spec: NetworkSpec[Any]) -> Self:
        """Called once on each rank, and once on the meta device (no generator) to learn the shapes."""
        return cls(spec.config, spec.num_values, spec.generator)

    def forward(self, x_t_BP: Tensor, t_B: Tensor, *_: object) -> Tensor:
        """Predicts the target [B, P] from states and times; what follows is the condition."""
        x_BD = self.embed(torch.cat([x_t_BP, t_B[:, None]], dim=1))
        for block in self.blocks:
            x_BD = x_BD + block(x_BD)
        return self.unembed(x_BD)
