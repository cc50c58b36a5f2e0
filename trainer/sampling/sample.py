"""Examples that a run draws: a request, and the drawing on the ranks that share the network."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from netsim.foundation.refusal import Refusal, check_least
from netsim.foundation.terminal import Terminal
from trainer.config.derived import drawable, with_controls, with_shape
from trainer.config.run import RunConfig
from trainer.config.sample import FlowSample, ImageSample
from trainer.data.derived import CaptionsIndex
from trainer.data.shard.index import INDEX
from trainer.flow import Condition
from trainer.flow.control import AnyConfig as AnyControl
from trainer.flow.sampler import AnyConfig
from trainer.model.text_encoder import TextEncoder
from trainer.sampling.conditioning import Conditioning, chosen_classes, names_or_numbers, task_number
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.preview import show
from trainer.sampling.sampler_choice import SamplerChoice, check_chosen_controls
from trainer.sampling.trained import SharedFlow, restored_flow, shared


def captioned(
    config: RunConfig, num: int, captions: tuple[str, ...], encoder_dir: Path, option: str = "--caption"
) -> Conditioning:
    """Conditions of examples that have some captions in turn, and no class."""
    learned = config.flow and config.flow.captions
    if learned is None:
        raise ValueError(f"{option}: the run reads no captions; leave it out, or train with flow.captions")
    if config.context_shape is not None:
        raise ValueError(f"{option}: the run also reads a context, which a caption does not give; leave it out")
    if not all(caption.strip() for caption in captions):
        raise ValueError(f"{option}: it is empty; describe the image in words")
    index = CaptionsIndex.read(learned.path)
    if index.digest != learned.digest:
        problem, remedy = f"is {index.digest} where the run has {learned.digest}", "bring back those of the run"
        raise Refusal(learned.path / INDEX, "digest", problem, remedy)
    encoder = TextEncoder(encoder_dir)
    if encoder.digest != index.encoder:
        problem = f"has the digest {encoder.digest}, and the captions of the run were made by {index.encoder}"
        raise Refusal(encoder_dir, "encoder", problem, "give the encoder that encode-captions was given")
    vectors = index.standardised(encoder.encode(captions)).half().float()
    turn = torch.arange(num) % len(captions)
    label = torch.full((num,), config.data.num_classes)
    return Conditioning(Condition(label=label, caption=vectors[turn]), captions=captions)


BETWEEN = 8
"""Images in a row from one caption to another, unless a number is requested."""
MOST = 80
"""Most images of a grid, unless a number is requested."""


MOST_SAMPLES = 1_000_000
"""Most samples held at a time."""


@dataclass(frozen=True)
class Drawing:
    """Draws examples of a run for given conditions, on every rank that shares its network; controls act in order.

    `ends` are two captions that paths begin at; all examples then begin on the straight line between their sources.
    """

    ranks: SharedFlow
    sampler: AnyConfig
    controls: tuple[AnyControl, ...]
    conditioning: Conditioning
    guidance: float
    seed: int
    ends: Condition | None = None

    @property
    def flow(self) -> TrainedFlow:
        """The run's flow with the drawing's sampler and controls."""
        return self.ranks.flow.drawn_by(self.sampler).under(self.controls)

    def examples(self, guidance: float, recording: AbstractContextManager[object] | None = None) -> Tensor | None:
        """Draws images or points [N, *shape], which the first rank gets, with progress on a terminal; collective.

        `recording` is entered while they are drawn.
        """
        num, launch = len(self.conditioning.labels), self.ranks.launch
        with Terminal(stderr=True, quiet=launch.rank > 0).status(f"drawing {num}") as status:

            def show(evaluations: int) -> None:
                status.update(f"drawing {num}, guidance {guidance:g}: {evaluations} calls of the network")

            flow, condition = self.flow, self.conditioning.condition
            with recording or nullcontext():
                x_0 = None if self.ends is None else between(flow, self.ends, num, seed=self.seed)
                states = flow.draw(condition, guidance=guidance, seed=self.seed, progress=show, x_0=x_0)
            return flow.decode(states, self.conditioning) if launch.rank == 0 else None

    def write(self, examples: Tensor, out: Path) -> None:
        """Writes drawn examples [N, *shape] as a PNG, also as FASTA, GIF or extended XYZ; prints a line."""
        config, num = self.flow.config, len(examples)
        columns = self.conditioning.columns() if isinstance(config.sample, ImageSample) else 0
        headings = self.conditioning.headings(names_or_numbers(config), columns) if columns else ()
        show(config, examples, self.conditioning, out, columns, headings, seed=self.seed)
        kind = config.sample.kind
        under = f", under {' and '.join(one.kind for one in self.controls)}" if self.controls else ""
        print(f"{out}: {num} {kind} of {self.flow.checkpoint}, guidance {self.guidance:g}{under}")


def between(flow: TrainedFlow, ends: Condition, num: int, *, seed: int) -> Tensor:
    """States [N, *shape] at equal distances on the line between the source points of two captions.

    Both have the same noise. Liu et al., "Flowing from Words to Pixels", arXiv 2412.15213, latent arithmetic.
    """
    first, last = flow.starts(ends, torch.zeros(2, dtype=torch.int64), seed=seed)
    return torch.stack([torch.lerp(first, last, share) for share in torch.linspace(0, 1, num).tolist()])


@dataclass(frozen=True, kw_only=True)
class DrawingRequest:
    """Request for examples of a run; fields with None keep the run's settings.

    Attributes:
        num: images or points; None: of each class as many images as the run's own grids show, but no more than 80 in
            all, or 80 where there is one class; as many points as the run's own plots show.
        classes: names or numbers of the classes that are drawn; empty: all.
        task: name or number of the task of all examples, for a run with routed adapters; None: the tasks in turn.
        captions: texts that are drawn in turn, by a run that reads captions; empty: those of held-out examples.
        between: two texts, from one of which to the other a row of images leads, by a run whose paths begin at
            captions; empty: none.
        encoder: folder of the text encoder that made the captions of the run.
        shape: height and width of images with a comma between them, of a run that learns several; None: the largest.
    """

    run_dir: Path
    num: int | None = None
    classes: tuple[str, ...] = ()
    task: str | None = None
    guidance: float | None = None
    seed: int = 0
    sampler: SamplerChoice = field(default_factory=SamplerChoice)
    controls: tuple[AnyControl, ...] | None = None
    captions: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    encoder: Path | None = None
    shape: str | None = None

    def check(self) -> None:
        """Refuses numbers that are out of range."""
        check_least(("--num", self.num, 1))
        if self.num is not None and self.num > MOST_SAMPLES:
            remedy = f"use {MOST_SAMPLES:,} or less, with several --seed for more"
            raise ValueError(f"--num: {self.num} samples are held at a time and drawn as one picture; {remedy}")
        if self.guidance is not None and not 0 <= self.guidance < math.inf:
            raise ValueError(
                f"--guidance: {self.guidance} is not a number from 0; use 1 for none, 1.5 for sharper images"
            )
        check_least(("--seed", self.seed, 0))
        option = "--between" if self.between else "--caption"
        if bool(self.captions or self.between) != (self.encoder is not None):
            given, missing = ("--encoder", f"{option} TEXT") if self.encoder is not None else (option, "--encoder DIR")
            raise ValueError(f"{given}: it needs {missing} beside it; give both")
        if self.captions and self.between:
            raise ValueError("--caption: it is beside --between, which has captions of its own; leave one of them out")
        if self.between and len(self.between) != 2:
            raise ValueError(f"--between: {len(self.between)} captions, and a row leads from one to another; give two")
        if self.between and self.num == 1:
            raise ValueError("--num: 1 image is no row from one caption to another; use 2 or more")
        if (self.captions or self.between) and self.classes:
            raise ValueError(f"--class: a caption is drawn without a class; leave --class or {option} out")
        self.sampler.check()

    def shaped(self, config: RunConfig) -> RunConfig:
        """A run whose images have the requested shape alone."""
        if self.shape is None:
            return config
        height, _, width = self.shape.partition(",")
        if not (height.strip().isdecimal() and width.strip().isdecimal()):
            raise ValueError(f"--shape: {self.shape!r} is not a height and a width; use for example 32,48")
        return with_shape(config, int(height), int(width))

    def scale(self, config: RunConfig) -> float:
        """The scale of classifier-free guidance for a run."""
        assert isinstance(config.sample, FlowSample)
        return config.sample.guidance if self.guidance is None else self.guidance

    def resolved(self, config: RunConfig) -> tuple[tuple[AnyControl, ...], AnyConfig]:
        """The controls and the sampler that draw."""
        assert isinstance(config.sample, FlowSample)
        scale, controls = self.scale(config), config.sample.controls
        if self.controls is not None:
            controls, config = self.controls, with_controls(config, self.controls)
        chosen = self.sampler.resolved(self.run_dir, config, scale)
        if self.controls is not None:
            check_chosen_controls(config, chosen, scale)
        return controls, chosen

    def number(self, config: RunConfig, classes: Sequence[int]) -> int:
        """Number of examples; `classes` are those requested, all if empty."""
        if self.num is not None:
            return self.num
        if self.between:
            return BETWEEN
        assert isinstance(config.sample, FlowSample)
        if not isinstance(config.sample, ImageSample):
            return config.sample.num
        count = len(self.captions) or len(classes) or max(1, config.data.num_classes)
        if count == 1:
            return MOST
        return min(count, MOST) * max(1, min(config.sample.per_class, MOST // count))


def row_between(config: RunConfig, num: int, request: DrawingRequest) -> tuple[Conditioning, Condition]:
    """Conditions of a row of images from one caption to another, and those of its two ends."""
    assert request.encoder is not None
    first, last = request.between
    if not config.encodes_captions:
        remedy = "use a run with flow.coupling encoded, or leave it out"
        raise ValueError(f"--between: paths of {config.run.dir} do not begin at captions; {remedy}")
    requested = captioned(config, 2, request.between, request.encoder, "--between")
    rows = requested.condition.rows(torch.zeros(num, dtype=torch.int64))  # only the ends are encoded
    return Conditioning(rows, captions=(first, *[""] * (num - 2), last)), requested.condition


@contextmanager
def drawing(request: DrawingRequest) -> Iterator[Drawing]:
    """Opens a run for drawing, on one process or on ranks that share its network as its own ranks did."""
    request.check()
    run_dir, seed = request.run_dir, request.seed
    config = request.shaped(restored_flow(run_dir)[1])
    if isinstance(config.sample, ImageSample) and not drawable(config):
        raise ValueError(
            f"run_dir: {run_dir} draws examples of {config.decoded_shape[0]} channels, which are not pictures"
        )
    classes = chosen_classes(config, request.classes)
    task = None if request.task is None else task_number(config, request.task)
    controls, chosen = request.resolved(config)
    num, requested = request.number(config, classes), None
    ends = None
    if request.between:
        requested, ends = row_between(config, num, request)
    elif request.encoder is not None:
        requested = captioned(config, num, request.captions, request.encoder)
    with shared(run_dir, chosen) as ranks:
        flow = replace(ranks.flow, config=request.shaped(ranks.flow.config))
        ranks = replace(ranks, flow=flow)
        conditioning = flow.conditioning(num, seed=seed, classes=classes) if requested is None else requested
        if task is not None:
            conditioning = conditioning.of_task(task)
        yield Drawing(ranks, chosen, controls, conditioning, request.scale(config), seed, ends)
