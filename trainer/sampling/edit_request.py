"""Request to edit pictures, and its plan for one run: classes, sampler, levels, mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

import trainer.flow.control
import trainer.flow.inversion
from netsim.foundation.picture_file import BadPicture, read_picture
from netsim.foundation.refusal import prefixed
from netsim.foundation.settings import Section
from trainer.config.rules.drawing import of_drawn, of_no_class, of_pictures, of_start_at_noise
from trainer.config.rules.objection import Objections, refuse
from trainer.config.rules.states import of_pictures_alone
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.flow import inversion
from trainer.flow.control import AnyConfig as AnyControl
from trainer.flow.control import OwnControl, PullConfig, check_leads_through
from trainer.flow.sampler import AnyConfig, Euler
from trainer.flow.sampler.protocol import check_grid
from trainer.sampling.conditioning import class_number, names_or_numbers
from trainer.sampling.requested_pictures import HeldOutPictures, PicturesConfig
from trainer.sampling.sampler_choice import check_requested, euler_of, segments_of

OWN, ALL = "own", "all"
Class = Annotated[str | NonNegativeInt, Field(union_mode="left_to_right")]
"""Name or number of a class; a name takes precedence."""
MOST_LEVELS = 20
N = TypeVar("N", int, float)


class EditGuidance(Section):
    """Scales of classifier-free guidance; 1: none."""

    source: float = Field(default=1.0, ge=0)
    """Scale while a picture is taken back to noise under its own class."""
    target: float | None = Field(default=None, ge=0)
    """Scale while an edit is drawn under another class; null: the run's sample.guidance."""


class ZeroOrderEdit(Section):
    """FlowOpt: the noise of a picture is corrected until what the target class draws from it comes near the picture."""

    kind: Literal["zero_order"] = "zero_order"
    iterations: tuple[NonNegativeInt, ...] = Field(default=(0, 2, 4, 8, 16), min_length=1, max_length=MOST_LEVELS)
    """Corrections after which an edit is kept; each costs one drawing, and more of them bring it nearer."""
    step_size: PositiveFloat | None = 0.05
    """Step size of a correction; null: for each picture the large step size of an inversion, which undoes an edit in
    two corrections."""

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
    """Method that turns a picture into the noise from which its edits start."""
    controls: tuple[trainer.flow.control.Config, ...] = ()
    """Controls that change the field which an edit follows, such as a pull to the picture; the first acts first."""
    strengths: tuple[float, ...] = Field(default=(0.0, 0.25, 0.5, 0.75, 1.0), min_length=1, max_length=MOST_LEVELS)
    """Factors from 0 to 1 of the strengths of the controls, an edit for each; 0: the plain sampler."""
    method: ZeroOrderEdit | None = None
    """Corrections of the noise under the target class, in place of controls; null: controls."""
    guidance: EditGuidance = EditGuidance()
    """Scales of classifier-free guidance."""
    seed: NonNegativeInt = 0
    """Seed of whatever is drawn at random."""
    mask: Path | None = None
    """A picture: white is edited, black is held; null: all is edited."""
    together: PositiveInt = 8
    """Pictures that pass through the network at once; fewer need less memory."""

    @field_validator("targets", mode="before")
    @classmethod
    def _one_alone(cls, targets: Any) -> Any:
        """Accepts one class that is written without brackets."""
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


def read_held(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Reads a mask, cut and resized as pictures are: float32 [1, 1, H, W], 0 (white, edited) to 1 (black, held)."""
    try:
        white = torch.from_numpy(read_picture(path, 1, *shape[1:]).copy()).float() / 255
    except BadPicture as error:
        remedy = "give a picture that is white where pictures are edited"
        raise ValueError(f"mask: {path} cannot be read ({error}); {remedy}") from error
    if not bool((white > 0).any()):
        raise ValueError(
            f"mask: {path} is black all over, so that nothing would be edited; make the part to edit white"
        )
    return 1 - white[None]


def held_states(held: Tensor, state_shape: tuple[int, ...]) -> Tensor:
    """The mask [1, 1, H, W] at the resolution of states (Z, h, w), by means of its pixels: float32 [1, 1, h, w]."""
    return functional.interpolate(held, size=state_shape[1:], mode="area")


def scaled(controls: Sequence[AnyControl], strength: float) -> tuple[AnyControl, ...]:
    """Controls at a share of their strength, 0 to 1; none at 0, so that what follows is the field itself."""
    if strength in (0.0, 1.0):
        return tuple(controls) if strength else ()
    return tuple(_scaled(control, strength) for control in controls)


def check_scalable(controls: Sequence[AnyControl], strengths: Sequence[float]) -> None:
    """Refuses shares of the strength of a control that has none: a user's class without a setting ``strength``."""
    between = [strength for strength in strengths if 0 < strength < 1]
    for number, control in enumerate(controls):
        if between and isinstance(control, OwnControl) and not isinstance(control.setting("strength"), int | float):
            raise ValueError(
                f"strengths: {between[0]:g}, but controls.{number} ({control.kind}) has no setting named strength; use "
                "0 and 1 alone, or give the class one"
            )


def _scaled(control: AnyControl, strength: float) -> AnyControl:
    if isinstance(control, OwnControl):
        return control.with_settings(strength=strength * control.setting("strength"))
    return control.model_copy(update={"strength": strength * control.strength})


HOLD = PullConfig(strength=1.0, start=0.0, stop=1.0)
"""Control that pulls the part of a picture that a mask keeps back to its original values."""


@dataclass(frozen=True)
class EditPlan:
    """Edits of a run's pictures.

    Attributes:
        names: of the target classes; one empty name where a run has no classes.
        source: class of every picture; None: each has a class of its own.
        sampler: draws the edits, and is reversed by the inversion.
        held: [1, 1, H, W] how much of each pixel is held, 0 to 1; None: nothing is.
    """

    request: EditRequest
    targets: tuple[int, ...]
    names: tuple[str, ...]
    all_names: tuple[str, ...]
    source: int | None
    sampler: AnyConfig
    guidance: float
    held: Tensor | None

    @property
    def method(self) -> ZeroOrderEdit | None:
        """The method of noise correction; None: edits are made by controls."""
        return self.request.method

    @property
    def levels(self) -> tuple[float, ...]:
        """Strengths of the controls, or numbers of corrections; each gives one edit."""
        if self.method is not None:
            return self.method.iterations
        return self.request.strengths if self.request.controls else (0.0,)

    def class_name(self, label: int) -> str:
        """Name of a class of the run."""
        return self.all_names[label]

    @property
    def level_name(self) -> str:
        """The word for one level."""
        return "strength" if self.method is None else "iteration"

    def sources(self, labels: Tensor | None, num: int) -> Tensor:
        """Classes int64 [N] under which pictures are inverted: the requested one, or the pictures' own `labels`."""
        if self.source is not None:
            return torch.full((num,), self.source)
        assert labels is not None
        return labels


def planned(request: EditRequest, config: RunConfig, *, labelled: bool) -> EditPlan:
    """Resolves a request for a run; `labelled`: whether the class of each picture is known."""
    sample, classes = config.sample, config.data.num_classes
    refuse(_of_run(config))
    assert isinstance(sample, ImageSample)
    guidance = sample.guidance if request.guidance.target is None else request.guidance.target
    chosen = _sampler(request, sample.sampler)
    for name, scale in (("target", guidance), ("source", request.guidance.source)):
        try:
            refuse(of_drawn(config, chosen, scale))
        except ValueError as error:
            field = str(error).replace("sample.guidance", f"guidance.{name}").replace("sample.sampler", "steps")
            raise ValueError(field) from error
    _check_inversion(chosen)
    check_requested(request.controls, config, "controls")
    _check_held(request, config)
    check_scalable(request.controls, request.strengths)
    if classes == 0:
        targets, names = _without_classes(request), ("",)
    else:
        known = names_or_numbers(config)
        targets = tuple(range(classes))
        if request.targets != ALL:
            targets = tuple(class_number(config, "targets", str(target).strip()) for target in request.targets)
        if len(set(targets)) < len(targets):
            raise ValueError(f"targets: {list(request.targets)} name a class twice; give each class once")
        names = tuple(known[target] for target in targets)
    held = None if request.mask is None else read_held(request.mask, tuple(config.decoded_shape))
    return EditPlan(
        request, targets, names, names_or_numbers(config), _source(request, config, labelled), chosen, guidance, held
    )


def _of_run(config: RunConfig) -> Objections:
    """Objections to runs that do not draw pictures from noise and a class."""
    yield from of_pictures(config, "edit")
    yield from of_pictures_alone(config, "edit")
    for name in ("context", "captions"):
        if getattr(config.flow, name, None) is not None:
            problem = f"the run has flow.{name}, which a class alone does not replace"
            yield "run_dir", problem, "edit with a run that is conditioned on classes or on nothing"
    yield from of_start_at_noise(config, "a picture has no noise to be edited from")


def _sampler(request: EditRequest, own: AnyConfig) -> AnyConfig:
    """Euler's method with the requested steps, in the segments of the run's sampler; without steps that sampler."""
    segments = segments_of(own)
    match request.steps:
        case None:
            return own
        case int(steps) if steps % segments:
            near = max(1, round(steps / segments)) * segments
            raise ValueError(f"steps: {steps} cannot be shared out over {segments} segments of time; use {near}")
        case int(steps):
            return euler_of(own, Euler(steps=steps // segments))
        case times if segments > 1:
            raise ValueError(
                f"steps: {len(times)} times are given, and the run goes through {segments} segments of time; give the "
                "number of steps"
            )
        case times:
            return Euler(times=times, steps=len(times) - 1)


def _check_inversion(chosen: AnyConfig) -> None:
    try:
        inversion.check_invertible(chosen)
    except ValueError as error:
        problem = str(error).removeprefix("sampler: ").partition("; ")[0]
        raise ValueError(
            f"steps: the run's sampler {problem}; give a number of Euler's steps, such as steps=28"
        ) from error
    if chosen.calls() is None:
        raise ValueError(f"steps: {chosen.kind} does not say how many steps it takes; give a number of Euler's steps")


def _check_held(request: EditRequest, config: RunConfig) -> None:
    assert config.flow is not None
    if request.mask is None:
        return
    with prefixed("mask: what is black is held by a "):
        check_leads_through(HOLD.end, config.flow.path.build(), kind=HOLD.kind)


def _without_classes(request: EditRequest) -> tuple[int, ...]:
    if request.targets != ALL:
        raise ValueError(f"targets: {list(request.targets)}, but the run has no classes; leave it out")
    if request.source not in (OWN, None):
        raise ValueError(f"source: {request.source}, but the run has no classes; leave it out")
    return (0,)


def _source(request: EditRequest, config: RunConfig, labelled: bool) -> int | None:
    classes = config.data.num_classes
    if classes == 0:
        return 0
    if request.source is None:
        refuse(of_no_class(config, "source", "null", remedy="name a class, or use own"))
        return classes
    if request.source == OWN and OWN not in config.data.class_names:
        if not labelled:
            raise ValueError(
                "source: own needs the class of each picture, and those of a folder have none; name their class, or "
                "write null for none"
            )
        return None
    return class_number(config, "source", str(request.source).strip())
