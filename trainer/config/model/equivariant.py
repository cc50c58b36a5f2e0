"""Settings of networks of atoms in space."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from trainer.config.model.protocol import Layers, NetworkConfig, Shape, Width

DISTANCES, VECTORS = 3, 3
"""Distances and vectors between two atoms: in the state, in the reactant and in the product."""
OTHERS = 7
"""Channels of a context that are no species: reactant, product, and whether an atom is free."""


class EquivariantConfig(NetworkConfig):
    """Messages between the atoms of a reaction; predictions turn, shift and mirror with the atoms.

    The network reads distances in the state, the reactant and the product, and writes a sum of the vectors between
    their atoms. Satorras et al., "E(n) Equivariant Graph Neural Networks", arXiv 2102.09844; TS-GEN.
    """

    kind: Literal["equivariant"] = "equivariant"
    hidden: Width = 48
    """Width of the features of an atom, an even number."""
    num_layers: Layers = 3
    """Rounds of messages."""
    radius: PositiveFloat = 8.0
    """Distance in angstrom up to which distances are distinguished, by Gaussians beside each other."""
    bells: PositiveInt = 12
    """Number of Gaussians that encode a distance, with centres from 0 to `radius`."""
    init_from: Path | None = None
    """An ema.safetensors whose weights this run starts with, or the folder of the run that has it."""

    data_kinds = ("reactions",)
    sample_kinds = ("reactions",)
    label_dropout: ClassVar[float] = 0.0
    reads_context = True
    unseen_in_shapes = ("radius",)

    @model_validator(mode="after")
    def _waves_come_in_pairs(self) -> "EquivariantConfig":
        if self.hidden % 2:
            raise ValueError(f"hidden: {self.hidden} is odd, and time takes sines and cosines; use {self.hidden + 1}")
        return self

    def check_states(self, shape: Shape) -> None:
        if len(shape) != 3 or shape[:2] != (3, 1):
            raise ValueError(
                f"data.path: its examples have shape {list(shape)}, and an equivariant model takes the positions "
                "[3, 1, N] of atoms; use data of kind reactions"
            )


Config = EquivariantConfig
