"""The sample verb: a grid of images or a scatter plot of points."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from torch import Tensor

from trainer.config.constraints.drawing import drawable
from trainer.config.run import ImageSample, PointSample
from trainer.flow.reference import ReferenceConfig
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.image_grid import image_grid
from trainer.sampling.preview import plot_points
from trainer.sampling.reference import Reference
from trainer.sampling.searched import check_made_of, sampler_of
from trainer.sampling.trained import opened, restored_flow


@dataclass(frozen=True)
class Drawing:
    """Examples that a run draws for given conditions.

    Attributes:
        flow: the run.
        conditioning: the conditions, the classes in turn.
        guidance: scale of classifier-free guidance.
        seed: of the starting noise.
    """

    flow: TrainedFlow
    conditioning: Conditioning
    guidance: float
    seed: int

    def examples(self, guidance: float) -> Tensor:
        """Draws images or points [N, *shape], and shows a terminal how far it is.

        Args:
            guidance: scale of classifier-free guidance.
        """
        num = len(self.conditioning.labels)
        with Console(stderr=True).status(f"drawing {num}") as status:

            def show(evaluations: int) -> None:
                status.update(f"drawing {num}, guidance {guidance:g}: {evaluations} evaluations of the field")

            states = self.flow.draw(self.conditioning.condition, guidance=guidance, seed=self.seed, progress=show)
            return self.flow.decode(states, self.conditioning)

    def write(self, examples: Tensor, out: Path) -> None:
        """Writes drawn examples [N, *shape] as a PNG, and prints a line about it."""
        config, num = self.flow.config, len(examples)
        if isinstance(config.sample, PointSample):
            plot_points(config, examples, self.conditioning.labels, out, seed=self.seed)
        else:
            columns = config.data.num_classes if config.data.num_classes > 1 else math.isqrt(num - 1) + 1
            image_grid(self.conditioning.pictures(examples, columns).numpy(), columns, out)
        kind = "points" if isinstance(config.sample, PointSample) else "images"
        print(f"{out}: {num} {kind} of {self.flow.checkpoint}, guidance {self.guidance:g}")


@contextmanager
def drawing(
    run_dir: Path,
    num: int,
    guidance: float | None,
    seed: int,
    *,
    steps: Path | None = None,
    evaluations: int | None = None,
) -> Iterator[Drawing]:
    """Opens a run on one process for drawing.

    Args:
        run_dir: folder of the run.
        num: images or points, a multiple of the number of classes.
        guidance: scale of classifier-free guidance; None: the run's own.
        seed: of the starting noise.
        steps: file of searched grids, which Euler's method takes in place of the run's own sampler; None: that one.
        evaluations: of the field, for which the file has a grid; None: the most.

    Yields:
        The drawing; inside, process groups are joined.

    Raises:
        ValueError: the run has no complete checkpoint or draws no picture, `num`, `guidance` or `seed` is out of
            range, or the grids are not those of the run and the guidance.
    """
    _, config = restored_flow(run_dir)
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
    with opened(run_dir) as flow:
        yield Drawing(flow.drawn_by(chosen), flow.conditioning(num, seed=seed), scale, seed)
