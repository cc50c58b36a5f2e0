"""Settings of the two views of an example that a task compares."""

from collections.abc import Sequence

from pydantic import Field, NonNegativeInt

from netsim.foundation.settings import Section


class Views(Section):
    """Two views of each training example: it is shifted, mirrored, scaled and noised twice, by draws of its own."""

    shift: NonNegativeInt = 1
    """Pixels that an image is shifted by at most, up or down and left or right; 0 for vectors."""
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability that an image is mirrored left to right; 0 for vectors, digits and text."""
    scale: float = Field(default=0.1, ge=0, lt=1)
    """Share by which all values of an example are made larger or smaller at most."""
    noise: float = Field(default=0.1, ge=0)
    """Standard deviation of normal noise that is added to each value."""

    def check_examples(self, shape: Sequence[int]) -> None:
        """Refuses, with a ValueError, examples that are not moved so."""
        if len(shape) != 3:
            for name in ("shift", "flip"):
                if getattr(self, name):
                    problem = f"{getattr(self, name):g} moves images, and these examples have shape {list(shape)}"
                    raise ValueError(f"task.views.{name}: {problem}; use 0")
        elif self.shift >= (side := min(shape[1:])):
            problem = f"{self.shift} pixels are too large a shift for an image of {side}"
            raise ValueError(f"task.views.shift: {problem}; use {side // 8} to {side - 1}")
