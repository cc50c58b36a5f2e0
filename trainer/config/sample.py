"""Settings of samples that are drawn while training, and of their controls."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

import trainer.flow.sampler
from netsim.foundation.own_class import KindOrClass, OwnClass
from netsim.foundation.settings import Section, kind_of, sections_in
from trainer.config.sections import Every
from trainer.flow import control
from trainer.flow.control import CostGradientConfig, OwnControl, StraightThroughConfig

SampleControl = CostGradientConfig | StraightThroughConfig | OwnControl
"""What changes the field of samples, which have no picture to lead to."""

_OF_PICTURES = {
    kind_of(section)
    for section in sections_in(control.AnyConfig)
    if not issubclass(section, OwnClass) and getattr(section, "needs_picture", False)
}


def _kinds_of_samples(listed: Any) -> Any:
    """Refuses controls that lead to pictures; a control without a kind gets that of a cost gradient."""
    if not isinstance(listed, list | tuple):
        return listed
    for number, written in enumerate(listed):
        kind = written.get("kind") if isinstance(written, dict) else getattr(written, "kind", None)
        if kind in _OF_PICTURES:
            raise ValueError(_leads_to_a_picture(number, "kind", kind))
    unsaid = {"kind": kind_of(CostGradientConfig)}
    return [{**unsaid, **one} if isinstance(one, dict) and "class" not in one else one for one in listed]


def _classes_of_samples(listed: tuple[SampleControl, ...]) -> tuple[SampleControl, ...]:
    for number, one in enumerate(listed):
        if one.needs_picture:
            raise ValueError(_leads_to_a_picture(number, "class", one.kind))
    return listed


def _leads_to_a_picture(number: int, key: str, kind: Any) -> str:
    return (
        f"{number}.{key}: {kind} leads to a picture, and samples have none; remove it, or use the edit verb, which has "
        "pictures"
    )


Controls = Annotated[
    tuple[Annotated[SampleControl, KindOrClass()], ...],
    BeforeValidator(_kinds_of_samples),
    AfterValidator(_classes_of_samples),
    Field(exclude_if=lambda listed: not listed),
]
"""Changes of the field that samples follow; an empty list is not written, so that it changes no digest of a run."""


class ImageSample(Section):
    """Grids of generated images, from the moving average of the weights and the same noise each time."""

    kind: Literal["images"] = "images"
    every: Every | None = None
    """Steps between two grids while training, or a share of the run such as 1/3; null: none."""
    per_class: PositiveInt = 8
    """Images of each class in a grid."""
    guidance: float = Field(default=1.5, ge=0)
    """Classifier-free guidance: 0 unconditional, 1 conditional, larger: sharper and less varied."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.Euler(steps=20)
    """How samples are drawn from noise; times of steps lie between 0 (source) and 1 (data)."""
    controls: Controls = ()
    """Controls that change the field during sampling, the first one first: the gradient of a cost, or a class of yours.
    Previews, sample, fid, evaluate and compare draw with them; pairs, steps and likelihoods use the flow without
    them."""


class TextSample(Section):
    """Prompts that are continued, with the moving average of the weights and the same draws each time."""

    kind: Literal["text"] = "text"
    every: Every | None = None
    """Steps between two texts while training, or a share of the run such as 1/3; null: none."""
    prompts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("def ", "class ")
    """Prompts that the texts begin with."""
    num_tokens: PositiveInt = Field(default=100, validation_alias=AliasChoices("num_tokens", "num_bytes"))
    """Tokens written after each prompt; without a tokenizer a token is a byte. Its former name is num_bytes."""
    temperature: float = Field(default=0.8, ge=0)
    """Temperature that the logits are divided by before a token is drawn; 0: always the likeliest token."""


class PointSample(Section):
    """Scatter plots of generated points, from the moving average of the weights and the same noise each time."""

    kind: Literal["points"] = "points"
    every: Every | None = None
    """Steps between two plots while training, or a share of the run such as 1/3; null: none."""
    num: PositiveInt = 2000
    """Points of a plot."""
    guidance: float = Field(default=1.0, ge=0)
    """Classifier-free guidance: 0 unconditional, 1 conditional, larger: sharper and less varied."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.Heun(steps=20)
    """How samples are drawn from noise; times of steps lie between 0 (source) and 1 (data)."""
    controls: Controls = ()
    """Controls that change the field during sampling, the first one first: the gradient of a cost, or a class of yours.
    Previews, sample, fid, evaluate and compare draw with them; pairs, steps and likelihoods use the flow without
    them."""


class SequenceSample(Section):
    """Sequences as FASTA beside a picture of the letters at each place, from the moving average of the weights."""

    kind: Literal["sequences"] = "sequences"
    every: Every | None = None
    """Steps between two pictures while training, or a share of the run such as 1/3; null: none."""
    num: PositiveInt = 1000
    """Sequences of a picture."""
    guidance: float = Field(default=1.0, ge=0)
    """Classifier-free guidance: 0 unconditional, 1 conditional, larger: sharper and less varied."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.Euler(steps=50)
    """How samples are drawn from noise; times of steps lie between 0 (source) and 1 (data)."""
    controls: Controls = ()
    """Controls that change the field during sampling, the first one first: the gradient of a reward, or a class of
    yours."""


class ClipSample(Section):
    """Clips as an animated GIF and as a sheet with a row a clip, from the moving average of the weights."""

    kind: Literal["clips"] = "clips"
    every: Every | None = None
    """Steps between two sheets while training, or a share of the run such as 1/3; null: none."""
    num: PositiveInt = 16
    """Clips of a sheet."""
    guidance: float = Field(default=1.0, ge=0)
    """Classifier-free guidance: 0 unconditional, 1 conditional, larger: sharper and less varied."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.Euler(steps=20)
    """How samples are drawn from noise; times of steps lie between 0 (source) and 1 (data)."""
    controls: Controls = ()
    """Controls that change the field during sampling, the first one first: the gradient of a cost, or a class of
    yours."""


class ReactionSample(Section):
    """Transition states as extended XYZ with their ends, beside a picture, from the moving average of the weights."""

    kind: Literal["reactions"] = "reactions"
    every: Every | None = None
    """Steps between two files while training, or a share of the run such as 1/3; null: none."""
    num: PositiveInt = 16
    """Reactions of a file."""
    guidance: float = Field(default=1.0, ge=0)
    """Scale of classifier-free guidance; of no effect here, since the network reads no class."""
    sampler: trainer.flow.sampler.Config = trainer.flow.sampler.Euler(steps=20)
    """How samples are drawn from noise; times of steps lie between 0 (source) and 1 (data)."""
    controls: Controls = ()
    """Controls that change the field during sampling, the first one first: a class of yours."""


class ReconstructionSample(Section):
    """Held-out images above their reconstructions by the moving average of the weights."""

    kind: Literal["reconstructions"] = "reconstructions"
    every: Every | None = None
    """Steps between two grids while training, or a share of the run such as 1/3; null: none."""
    num: PositiveInt = 16
    """Images of a grid."""


class ExampleSample(Section):
    """Held-out images in columns, by the prediction of the moving average of the weights, such as their cluster."""

    kind: Literal["examples"] = "examples"
    every: Every | None = None
    """Steps between two grids while training, or a share of the run such as 1/3; null: none."""
    per_column: PositiveInt = 8
    """Images of a column; blank where there are fewer."""


class SurfaceSample(Section):
    """Correspondences of held-out pairs of surfaces, as pictures of both with colours carried from one to the other.

    The correspondence found from features is refined one eigenfunction at a time, see Melzi et al., "ZoomOut", 2019.
    """

    kind: Literal["surfaces"] = "surfaces"
    every: Every | None = None
    """Steps between two pictures while training, or a share of the run such as 1/3; null: none."""
    num: PositiveInt = 1
    """Held-out pairs that are drawn in a picture and measured, at most."""
    upsampling: Literal["entropic", "nearest"] = "entropic"
    """How each refinement makes a map of points from a functional map. entropic: by the rows of an entropic transport
    plan between the areas; nearest: by the nearest neighbour."""
    first: PositiveInt = 8
    """Eigenfunctions that are matched first."""
    step: PositiveInt = 4
    """Eigenfunctions that are added at a time."""
    deviation: float = Field(default=0.1, gt=0)
    """Standard deviation of the kernel of an entropic plan, in units in which the mean squared distance is 1."""
    iterations: PositiveInt = 10
    """Sinkhorn iterations of each entropic plan."""
    landmarks: NonNegativeInt = 0
    """Points with a given correspondence, spread out over the second surface. Maps that begin at the distances to them
    are measured beside the other maps. Needs pairs with a known correspondence."""


class ObjectSample(Section):
    """Objects that are built for some preferences, by the moving average of the weights and the same draws each time.

    Lines of JSON, and a picture where the environment is a grid of two coordinates or has more than one objective.
    """

    kind: Literal["objects"] = "objects"
    every: Every | None = None
    """Steps between two such files while training, or a share of the run such as 1/3; null: none."""
    num: PositiveInt = 100
    """Objects of each preference."""
    divisions: PositiveInt = 4
    """Objects are built for all preferences whose weights are multiples of 1 / divisions; with two objectives these are
    divisions + 1."""
    exponent: PositiveFloat | None = None
    """Exponent of the reward, in a run that learns several; null: the largest."""


FlowSample = ImageSample | PointSample | SequenceSample | ClipSample | ReactionSample
"""Samples that follow a flow, by a sampler, under guidance and controls."""
Sample = Annotated[
    ImageSample
    | TextSample
    | PointSample
    | SequenceSample
    | ClipSample
    | ReactionSample
    | ReconstructionSample
    | ExampleSample
    | SurfaceSample
    | ObjectSample,
    Field(discriminator="kind"),
]
