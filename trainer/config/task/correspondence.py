"""Settings of features whose functional maps between surfaces agree with each other."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from trainer.config.task.protocol import TaskSettings


class CorrespondenceTaskConfig(TaskSettings):
    """Features of the points of surfaces, learned from pairs of which no correspondence is known.

    From the features follow functional maps in both directions, and what these must be to come from a map of points is
    the loss. Le et al., "Integrating efficient optimal transport and functional maps", 2024, sections 3 and 4; Cao et
    al., "Unsupervised learning of robust spectral shape matching", 2023, equations 4 to 7.
    """

    kind: Literal["correspondence"] = "correspondence"
    bijectivity: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Of how far the maps there and back are from the identity."""
    orthogonality: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Of how far each map is from keeping areas."""
    alignment: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Of how far each map is from that of the points whose features are alike."""
    sliced: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Of the sliced transport between the features of each surface and those that are carried to it; 100 as published,
    where no gain of it is seen on the pairs that ship."""
    slices: PositiveInt = 200
    """Directions that features are projected onto."""
    temperature: PositiveFloat = 0.07
    """What cosines are divided by before points are likened to each other."""
    smoothness: PositiveFloat = 1e-1
    """Of the penalty that holds a functional map near the diagonal, where eigenvalues of both surfaces agree."""
