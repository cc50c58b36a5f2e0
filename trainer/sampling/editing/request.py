"""What is asked of an edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

import trainer.flow.control
import trainer.flow.inversion
from netsim.foundation.settings import Section
from trainer.flow.sampler.protocol import check_grid
from trainer.sampling.requested_pictures import HeldOutPictures, PicturesConfig

OWN, ALL = "own", "all"
Class = Annotated[str | NonNegativeInt, Field(union_mode="left_to_right")]
"""Name or number of a class; a name goes before a number."""
MOST_LEVELS = 20
N = TypeVar("N", int, float)


class EditGuidance(Section):
    """Scales of classifier-free guidance; 1: none."""

    source: float = Field(default=1.0, ge=0)
    """While a picture is taken back to noise under its own class."""
    target: float | None = Field(default=None, ge=0)
    """While an edit is drawn under another class; null: the run's sample.guidance."""


class ZeroOrderEdit(Section):
    """FlowOpt: the noise of a picture is corrected until what the target class draws from it comes near the picture."""

    kind: Literal["zero_order"] = "zero_order"
    iterations: tuple[NonNegativeInt, ...] = Field(default=(0, 2, 4, 8, 16), min_length=1, max_length=MOST_LEVELS)
    """Corrections after which an edit is kept; each costs one drawing, and more of them bring it nearer."""
    step_size: PositiveFloat | None = 0.05
    """Step of a correction; null: for each picture the large one of an inversion, which undoes an edit in two."""

    @field_validator("iterations")
    @classmethod
    def _rise(cls, iterations: tuple[int, ...]) -> tuple[int, ...]:
        return _in_order(iterations)


class EditRequest(Section):
    """Pictures that a run turns into pictures of other classes."""

    pictures: PicturesConfig = HeldOutPictures()
    """The pictures that are edited."""
    source: Class | None = OWN
    """Class of the pictures: `own`, that of each held-out example; a name or a number; null: none."""
    targets: tuple[Class, ...] | Literal["all"] = ALL
    """Classes that are drawn, by name or number; `all`: every class of the run."""
    steps: PositiveInt | tuple[float, ...] | None = None
    """Steps of Euler's method, or its times from 0 to 1; null: the run's own sampler, which must be deterministic."""
    inversion: trainer.flow.inversion.Config = trainer.flow.inversion.UniInversion()
    """How a picture is taken to the noise that its edits begin at."""
    controls: tuple[trainer.flow.control.Config, ...] = ()
    """What changes the field that an edit follows, such as a pull to the picture; the first acts first."""
    strengths: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0), min_length=1, max_length=MOST_LEVELS)
    """Factors from 0 to 1 of the strengths of the controls, an edit for each; 0: the plain sampler."""
    method: ZeroOrderEdit | None = None
    """In place of controls, corrections of the noise under the target class; null: controls."""
    guidance: EditGuidance = EditGuidance()
    """Scales of classifier-free guidance."""
    seed: NonNegativeInt = 0
    """Of whatever is drawn at random."""
    mask: Path | None = None
    """A picture: white is edited, black is held; null: all is edited."""
    together: PositiveInt = 8
    """Pictures that pass through the network at once; less needs less memory."""

    @field_validator("targets", mode="before")
    @classmethod
    def _one_alone(cls, targets: Any) -> Any:
        """A class that is written without brackets."""
        return (targets,) if isinstance(targets, str | int) and targets != ALL else targets

    @field_validator("targets")
    @classmethod
    def _stand_there_once(cls, targets: tuple[Class, ...] | str) -> tuple[Class, ...] | str:
        if not targets:
            raise ValueError("it is empty; name classes, or write all")
        named = targets if isinstance(targets, tuple) else ()
        for target in named:
            if named.count(target) > 1:
                raise ValueError(f"{target} is given twice; give each class once")
        return targets

    @field_validator("steps")
    @classmethod
    def _is_a_grid(cls, steps: int | tuple[float, ...] | None) -> int | tuple[float, ...] | None:
        if isinstance(steps, tuple):
            check_grid(steps)
        return steps

    @field_validator("strengths")
    @classmethod
    def _are_shares(cls, strengths: tuple[float, ...]) -> tuple[float, ...]:
        for strength in strengths:
            if not 0 <= strength <= 1:
                raise ValueError(f"{strength:g} is not a share; use 0 (none) to 1 (the strength of the control)")
        return _in_order(strengths)

    @model_validator(mode="after")
    def _controls_or_a_method(self) -> EditRequest:
        if self.method is not None and self.controls:
            raise ValueError(f"method: {self.method.kind} is given beside controls; leave one of them out")
        if not self.controls and "strengths" in self.model_fields_set:
            raise ValueError(
                "strengths: there are no controls whose strength it could be; leave it out or add controls"
            )
        return self


def _in_order(numbers: tuple[N, ...]) -> tuple[N, ...]:
    for number in numbers:
        if numbers.count(number) > 1:
            raise ValueError(f"{number:g} is given twice; give each once")
    return tuple(sorted(numbers))
