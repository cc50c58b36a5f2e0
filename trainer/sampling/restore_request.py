"""Request to restore pictures, and its plan for one run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

import trainer.flow.control
import trainer.flow.inverse
import trainer.flow.operator
from netsim.foundation.refusal import Refusal, prefixed
from netsim.foundation.settings import Section
from trainer.config.model import CausalTransitionConfig
from trainer.config.rules.drawing import of_drawn, of_no_class, of_pictures, of_start_at_noise
from trainer.config.rules.objection import Objections, refuse
from trainer.config.rules.states import of_pictures_alone
from trainer.config.run import RunConfig
from trainer.config.sample import ImageSample
from trainer.flow.inverse import Config, Flair, calibration_levels, check_path
from trainer.flow.operator import AveragePool, BlurConfig, Identity, MaskConfig
from trainer.flow.path import Path
from trainer.sampling.conditioning import class_number
from trainer.sampling.requested_pictures import FolderPictures, HeldOutPictures, PicturesConfig
from trainer.sampling.sampler_choice import check_requested

OWN = "own"


class RestoreRequest(Section):
    """Pictures that a trained flow restores from observations: with holes, at a low resolution, out of focus."""

    operator: trainer.flow.operator.Config = MaskConfig()
    """The operator that maps a picture to its observation."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise that is added to the observations, where black is -1 and white is 1."""
    method: trainer.flow.inverse.Config = trainer.flow.inverse.FlairConfig()
    """The method that finds pictures which agree with the observations."""
    samples: int = Field(default=4, gt=0, le=10_000)
    """Pictures restored from each observation, with other draws; together they show what is uncertain."""
    seed: NonNegativeInt = 0
    """Seed of all draws; those of a picture also depend on its name."""
    label: Annotated[str | NonNegativeInt, Field(union_mode="left_to_right")] | None = None
    """The class that the pictures are of, by name or number; own: of each held-out picture its own; null: none."""
    guidance: float | None = Field(default=None, ge=0)
    """Scale of classifier-free guidance towards the label; null: the run's with a label, and none without."""
    controls: tuple[trainer.flow.control.Config, ...] = ()
    """Controls of the flow; the first acts first."""
    pictures: PicturesConfig = HeldOutPictures()
    """The pictures that are restored."""
    observed: bool = False
    """Whether the pictures of a folder are the observations themselves, so that the truth is unknown; false: they are
    whole, and the observations are made from them."""
    together: PositiveInt = 16
    """Pictures that pass through the network at once, each with all its samples; fewer need less memory."""

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


def built(config: Config, path: Path, errors: Tensor | None) -> Flair:
    """The solver of a request; its refusal names the section. `errors`: float64 [L] of the calibration, if any."""
    with prefixed("method."):
        return config.build(path=path, errors=None if errors is None else errors[None])


def prior_weights(config: Config, errors: Tensor | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise levels from the last step's to 1, and the prior's weights over levels, by calibration errors [L]."""
    weight = config.weight_of(None if errors is None else errors[None])
    levels = calibration_levels()
    levels = levels[levels >= config.last]
    return levels.numpy(), (weight.at(levels) / levels).numpy()


@dataclass(frozen=True)
class RestorePlan:
    """A restoration of one run's kind of pictures.

    Attributes:
        label: the class of all pictures; None: no class, or each picture's own where the request says so.
        image_shape: (C, H, W) of a restored picture.
        picture_shape: shape of the files of a folder, which are images or observations.
    """

    request: RestoreRequest
    label: int | None
    guidance: float
    image_shape: tuple[int, int, int]
    picture_shape: tuple[int, ...]

    @property
    def labelled(self) -> bool:
        """Whether the network gets a class."""
        return self.label is not None or self.request.label == OWN

    @property
    def in_words(self) -> str:
        """The kind of restoration, in a few words."""
        match self.request.operator:
            case MaskConfig(mask=mask):
                names = {"centre": "Filling in the centre", "boxes": "Filling in boxes"}
                return names.get(mask.kind, "Filling in a mask")
            case AveragePool(factor=factor):
                return f"{factor} times the resolution"
            case BlurConfig(deviation=deviation):
                return f"Sharpening a blur of {deviation:g} pixel{'s' * (deviation != 1)}"
            case Identity():
                return "Restoring"
            case custom:
                return f"Restoring ({custom.class_path.rpartition(':')[2]})"


def planned(request: RestoreRequest, config: RunConfig) -> RestorePlan:
    """Resolves a request for a run."""
    refuse(_of_run(config))
    shape = cast(tuple[int, int, int], tuple(config.decoded_shape))
    label = _label(request, config)
    assert isinstance(config.sample, ImageSample)
    guidance = request.guidance
    if guidance is None:
        guidance = 1.0 if request.label is None else config.sample.guidance
    try:
        refuse(of_drawn(config, config.sample.sampler, guidance))
    except ValueError as error:
        raise ValueError(str(error).replace("sample.guidance", "guidance")) from error
    observation = _observation_shape(request, shape)
    picture_shape = observation if request.observed else shape
    if request.observed and (len(observation) != 3 or observation[0] not in (1, 3)):
        raise ValueError(
            f"observed: observations of shape {list(observation)} are no pictures; give whole ones, of which the verb "
            "makes observations"
        )
    check_requested(request.controls, config, "controls")
    if request.method.weight != "calibrated":
        assert config.flow is not None
        built(request.method, config.flow.path.build(), None)
    return RestorePlan(request, label, guidance, shape, picture_shape)


def _of_run(config: RunConfig) -> Objections:
    """Objections to runs that do not draw pictures from noise alone."""
    yield from of_pictures(config, "restore")
    yield from of_pictures_alone(config, "restore")
    if config.flow is None:
        return
    if config.context_shape is not None:
        problem = "its network reads a context, which it needs of every picture"
        yield "run_dir", problem, "draw what it hides with the sample verb, or restore with a run without"
    yield from of_start_at_noise(config, "it says nothing of noisy pictures")
    if isinstance(config.model, CausalTransitionConfig):
        problem = f"a {config.model.kind} draws a picture token by token, and not from one noise"
        yield "run_dir", problem, "use another run"
    try:
        check_path(config.flow.path.build())
    except ValueError as error:
        yield ValueError(f"run_dir: {error}")


def _label(request: RestoreRequest, config: RunConfig) -> int | None:
    classes = config.data.num_classes
    if request.label is None:
        refuse(of_no_class(config, "label", "null", remedy="name a class, or use own"))
        return None
    if classes == 0:
        raise ValueError(f"label: {request.label}, but the run has no classes; leave it out")
    if request.label == OWN and OWN not in config.data.class_names:
        if isinstance(request.pictures, FolderPictures):
            raise ValueError("label: own needs held-out pictures, as files have no class; name a class, or use null")
        return None
    return class_number(config, "label", str(request.label))


def _observation_shape(request: RestoreRequest, shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The shape of an observation, of a grey image; refuses an operator that does not suit the images."""
    try:
        operator = request.operator.build(shape, torch.zeros(1).long())
    except Refusal:
        raise
    except ValueError as error:
        raise ValueError(f"operator.{error}") from error
    return tuple(operator.apply(torch.zeros(1, *shape)).shape[1:])
