"""What is asked of a restoration."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

import trainer.flow.control
import trainer.flow.inverse
import trainer.flow.operator
from netsim.foundation.settings import Section
from trainer.sampling.requested_pictures import FolderPictures, HeldOutPictures, PicturesConfig

OWN = "own"


class RestoreRequest(Section):
    """Pictures that a trained flow makes of observations: with holes, at a low resolution, out of focus."""

    operator: trainer.flow.operator.Config = trainer.flow.operator.MaskConfig()
    """What an observation shows of a picture."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise that is added to the observations, where black is -1 and white is 1."""
    method: trainer.flow.inverse.Config = trainer.flow.inverse.FlairConfig()
    """How the flow is asked for pictures that agree with the observations."""
    samples: int = Field(default=4, gt=0, le=10_000)
    """Pictures restored from each observation, with other draws; together they show what is uncertain."""
    seed: NonNegativeInt = 0
    """Of all draws; those of a picture depend on its name besides."""
    label: Annotated[str | NonNegativeInt, Field(union_mode="left_to_right")] | None = None
    """The class that the pictures are of, by name or number; own: of each held-out picture its own; null: none."""
    guidance: float | None = Field(default=None, ge=0)
    """Scale of classifier-free guidance towards the label; null: the run's with a label, and none without."""
    controls: tuple[trainer.flow.control.Config, ...] = ()
    """Controls of the flow, the first the innermost."""
    pictures: PicturesConfig = HeldOutPictures()
    """What is restored."""
    observed: bool = False
    """Whether the pictures of a folder are the observations themselves, so that nobody knows the truth; false: they are
    whole, and the observations are made of them."""
    together: PositiveInt = 16
    """Pictures that pass through the network at once, each with all its samples; less needs less memory."""

    @model_validator(mode="after")
    def _observations_are_taken_as_they_are(self) -> RestoreRequest:
        if self.observed and not isinstance(self.pictures, FolderPictures):
            raise ValueError(
                "observed: true needs pictures that are observations, and those of the run are whole; give "
                "pictures={kind: folder, path: DIR}, or leave it out"
            )
        if self.observed and self.noise > 0:
            raise ValueError(f"noise: {self.noise:g} would be added to observations that are given; leave it out")
        return self

    @model_validator(mode="after")
    def _guidance_has_a_label(self) -> RestoreRequest:
        if self.label is None and self.guidance not in (None, 1.0):
            raise ValueError(f"guidance: {self.guidance:g} leads to a label, and there is none; give label, or 1")
        return self
