"""The sample verb: a grid of images or a scatter plot of points."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from torch import Tensor

from trainer.config.constraints.buckets import with_shape
from trainer.config.constraints.drawing import drawable
from trainer.config.run import ImageSample, PointSample
from trainer.flow.reference import ReferenceConfig
from trainer.flow.sampler import AnyConfig
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.image_grid import image_grid
from trainer.sampling.preview import plot_points
from trainer.sampling.reference import Reference
from trainer.sampling.searched import check_made_of, sampler_of
from trainer.sampling.trained import SharedFlow, restored_flow, shared
from trainer.trace.drawing import DrawingTrace


@dataclass(frozen=True)
class Drawing:
    """Examples that a run draws for given conditions, on every rank that shares its network.

    Attributes:
        ranks: the run, on the ranks of this launch.
        sampler: what draws.
        conditioning: the conditions, the classes in turn.
        guidance: scale of classifier-free guidance.
        seed: of the starting noise.
    """

    ranks: SharedFlow
    sampler: AnyConfig
    conditioning: Conditioning
    guidance: float
    seed: int

    @property
    def flow(self) -> TrainedFlow:
        """The run, drawn from by the sampler."""
        return self.ranks.flow.drawn_by(self.sampler)

    def examples(self, guidance: float, trace: Path | None = None) -> Tensor | None:
        """Draws images or points, and shows a terminal how far it is; collective.

        Args:
            guidance: scale of classifier-free guidance.
            trace: folder for what the ranks send meanwhile, and for the experts that their tokens visit.

        Returns:
            [N, *shape] on the first rank, None on the others.
        """
        num, launch = len(self.conditioning.labels), self.ranks.launch
        recorder = None
        if trace is not None:
            recorder = DrawingTrace(trace, self.ranks.flow.config, self.ranks.layout, launch, self.flow.model)
        with Console(stderr=True, quiet=launch.rank > 0).status(f"drawing {num}") as status:

            def show(evaluations: int) -> None:
                status.update(f"drawing {num}, guidance {guidance:g}: {evaluations} evaluations of the field")

            with nullcontext() if recorder is None else recorder.recording():
                states = self.flow.draw(self.conditioning.condition, guidance=guidance, seed=self.seed, progress=show)
            if recorder is not None:
                recorder.write()
            return self.flow.decode(states, self.conditioning) if launch.rank == 0 else None

    def write(self, examples: Tensor, out: Path) -> None:
        """Writes drawn examples [N, *shape] as a PNG, and prints a line about it."""
        config, num = self.flow.config, len(examples)
        if isinstance(config.sample, PointSample):
            plot_points(config, examples, self.conditioning.labels, out, seed=self.seed)
        else:
            columns = config.data.num_classes if config.data.num_classes > 1 else math.isqrt(num - 1) + 1
            headings = self.conditioning.headings(config.data.class_names, columns)
            image_grid(self.conditioning.pictures(examples, columns).numpy(), columns, out, headings)
        kind = "points" if isinstance(config.sample, PointSample) else "images"
        print(f"{out}: {num} {kind} of {self.flow.checkpoint}, guidance {self.guidance:g}")


def _sides(shape: str) -> tuple[int, int]:
    height, _, width = shape.partition(",")
    if not (height.strip().isdecimal() and width.strip().isdecimal()):
        raise ValueError(f"--shape: {shape!r} is no height and width; use for example 32,48")
    return int(height), int(width)


@contextmanager
def drawing(
    run_dir: Path,
    num: int,
    guidance: float | None,
    seed: int,
    *,
    steps: Path | None = None,
    evaluations: int | None = None,
    shape: str | None = None,
) -> Iterator[Drawing]:
    """Opens a run for drawing, on one process or on ranks that share its network as its own ranks did.

    Args:
        run_dir: folder of the run.
        num: images or points, a multiple of the number of classes.
        guidance: scale of classifier-free guidance; None: the run's own.
        seed: of the starting noise.
        steps: file of searched grids, which Euler's method takes in place of the run's own sampler; None: that one.
        evaluations: of the field, for which the file has a grid; None: the most.
        shape: height and width of images with a comma between them, of a run that learns several; None: the largest.

    Yields:
        The drawing; inside, process groups are joined.

    Raises:
        ValueError: the run has no complete checkpoint or draws no picture, the ranks cannot share its network, `num`,
            `guidance` or `seed` is out of range, or the grids are not those of the run and the guidance.
    """
    _, config = restored_flow(run_dir)
    if shape is not None:
        config = with_shape(config, *_sides(shape))
    if not isinstance(config.sample, PointSample) and not drawable(config):
        raise ValueError(
            f"run_dir: {run_dir} draws examples of {config.decoded_shape[0]} channels, which are no picture"
        )
    classes = max(1, config.data.num_classes)
    if num < 1 and classes == 1:
        raise ValueError(f"--num: {num} is below 1; use 1 or more")
    if num < 1 or num % classes:
        raise ValueError(
            f"--num: {num} is no positive multiple of the {classes} classes; use {max(1, num // classes) * classes}"
        )
    if guidance is not None and not 0 <= guidance < math.inf:
        raise ValueError(f"--guidance: {guidance} is no scale from 0; use 1 for none, 1.5 for sharper images")
    if seed < 0:
        raise ValueError(f"--seed: {seed} is below 0; use 0 or more")
    assert isinstance(config.sample, ImageSample | PointSample)
    scale = config.sample.guidance if guidance is None else guidance
    chosen = config.sample.sampler
    if steps is not None:
        chosen = sampler_of(config, steps, evaluations, guidance=scale)
        check_made_of(steps, Reference.of_run(ReferenceConfig(run=run_dir)).digest)
    with shared(run_dir, chosen) as ranks:
        if shape is not None:
            ranks = replace(ranks, flow=replace(ranks.flow, config=config))
        yield Drawing(ranks, chosen, ranks.flow.conditioning(num, seed=seed), scale, seed)
