"""OTIP beside RF-Inversion on 8 x 8 digits: python -m tests.benchmarks.methods.otip

A perceptron of 3 x 256 learns 1,437 digits and their classes, in 4,000 steps of 256, one label in ten left out. The
other 360 are taken to noise without a class by 28 steps of Euler's method against the time, pulled to random noise with
strength gamma, and drawn again by 28 steps: 56 evaluations an image for every row but the source itself.

* Reconstruction: the mean squared error per pixel of what is drawn without a class, at gamma 0.5 and 0, by RF-Inversion
  (strength 0) and by OTIP of three strengths put before it.
* The plane: each image is drawn as one other class. Distance is the mean squared difference from the source,
  reconstruction that of the same controls without a class, on a third of the images, and accuracy the share that a
  logistic regression of the training images takes for the requested class. RF-Inversion is swept over 54 pairs
  of strength and stop; so is OTIP at each of three strengths put before the same 54 pulls, and OTIP without a pull over
  54 pairs of its own strength and stop. The front of a sweep is the lower edge of the convex hull of its points, which
  is reached by choosing between two settings at random for each image. Behind and ahead are the largest and the least
  error over that of RF-Inversion's front at equal accuracy. RF-Inversion pulled to other noise shows what chance alone
  makes of them.

Beside the plane stand the source itself, the way back and forth without any control, fresh noise drawn as the class by
as many evaluations, and both methods at their published settings.

Source: Lupascu and Stupariu, "Transport-Guided Rectified Flow Inversion", arXiv 2508.02363; Rout et al., "Semantic
Image Inversion and Editing using Rectified Stochastic Differential Equations", arXiv 2410.10792.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, rows, train
from trainer.data import SPLITS, DigitsConfig
from trainer.evaluation.quality import ClassJudge
from trainer.flow import Condition, inversion, sampler
from trainer.flow.control import Pull, PullConfig, Transport, TransportConfig, controlled

STEPS, CLASSES, RECONSTRUCTED = 28, 10, 120
EULER = sampler.Euler(steps=STEPS)
GAMMA, STRENGTHS = 0.5, (0.3, 0.5, 1.0)
PULLS = ((0.5, 0.0, 0.25), (0.5, 0.5, 0.25), (0.5, 0.9, 0.25), (0.0, 0.0, 0.25), (0.0, 0.5, 0.25), (0.0, 0.9, 0.25))
"""Gamma, strength and stop of the reconstructions."""
SWEEP = tuple(product((0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0), (0.25, 0.4, 0.55, 0.7, 0.85, 1.0)))
RIVAL, CHANCE, ALONE = "RF-Inversion", "RF-Inversion, other noise", "OTIP without a pull"
ERRORS = ("distance", "reconstruction")
WITHIN = 1.05
"""How far behind the rival is allowed."""
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97)

Controls = Callable[[Tensor], Sequence[Pull | Transport]]
"""From pictures to what is put over the field."""


class Point(NamedTuple):
    """One setting on the plane.

    Attributes:
        distance: of the edited images from their sources.
        reconstruction: the error of the same controls without a class.
        accuracy: share of the edited images that are taken for the requested class.
    """

    distance: float
    reconstruction: float
    accuracy: float


def before_pull(base: float) -> str:
    """What the sweep of OTIP at a strength is called."""
    return f"OTIP {base:g} before each pull"


OTHERS = (CHANCE, *map(before_pull, STRENGTHS), ALONE)


class Subject:
    """A trained network, and pictures that it has not seen.

    Args:
        seed: of the network and of all draws.
    """

    def __init__(self, seed: int) -> None:
        digits = DigitsConfig(held_out=360, size=8).open()
        learned, held_out = (digits.get(digits.indices(split)) for split in SPLITS)
        assert learned.labels is not None
        assert held_out.labels is not None
        images, self.pictures = learned.x_1.flatten(1), held_out.x_1.flatten(1)
        self.task = flow_task({}, model={"kind": "dit"})
        self.path = self.task.parts.path
        network = PlainNetwork(64, hidden=256, layers=3, seed=seed, num_classes=CLASSES)
        self.network = train(
            self.task, rows(images, learned.labels), network, steps=4000, batch=256, lr=1e-3, seed=seed
        )
        self.judge = ClassJudge(images.numpy(), learned.labels.numpy())
        generator = torch.Generator().manual_seed(100 + seed)
        self.keys = fold_in(torch.tensor(seed), torch.arange(len(images), len(images) + len(self.pictures)))
        others = torch.randint(1, CLASSES, held_out.labels.shape, generator=generator)
        self.wanted = (held_out.labels + others) % CLASSES
        self.nothing = torch.full((len(self.pictures),), CLASSES)

    @torch.no_grad()
    def inverted(self, gamma: float, *, other: bool = False) -> Tensor:
        """Noise of the pictures, pulled to their noise or to other noise."""
        config = inversion.Reverse(pull=gamma)
        back = config.build(sampler=EULER, path=self.path)
        keys = fold_in(self.keys, 1) if other else self.keys
        return back.invert(self._field(self.nothing), self.pictures, EULER.grid(), keys=keys).noise

    @torch.no_grad()
    def drawn(
        self, start: Tensor, labels: Tensor, controls: Sequence[Pull | Transport] = (), steps: int = STEPS
    ) -> Any:
        """The trajectory from noise."""
        times = torch.linspace(0, 1, steps + 1)
        return sampler.Euler().sample(controlled(self._field(labels), controls), start, times)

    def reconstruction(self, start: Tensor, controls: Controls) -> float:
        """The error of pictures that are drawn without a class."""
        final = self.drawn(start, self.nothing, controls(self.pictures)).final
        return float((final - self.pictures).square().mean())

    def edit(self, start: Tensor, controls: Controls, steps: int = STEPS) -> Point:
        """Draws the other classes and, beside them, without a class."""
        count = len(self.pictures)
        pictures, states, labels = (
            torch.cat([values, others[:RECONSTRUCTED]])
            for values, others in (
                (self.pictures, self.pictures),
                (start, start),
                (self.wanted, self.nothing),
            )
        )
        final = self.drawn(states, labels, controls(pictures), steps).final
        return self.point(final[:count], final[count:])

    def point(self, edited: Tensor, plain: Tensor) -> Point:
        """Where images lie on the plane."""
        return Point(
            float((edited - self.pictures).square().mean()),
            float((plain - self.pictures[:RECONSTRUCTED]).square().mean()),
            self.judge.accuracy(edited.numpy(), self.wanted.numpy()),
        )

    def pull(self, pictures: Tensor, strength: float, stop: float) -> Pull:
        """That of RF-Inversion."""
        return Pull(PullConfig(strength=strength, stop=stop), pictures, self.path)

    def transport(self, pictures: Tensor, strength: float, stop: float = 0.3) -> Transport:
        """That of OTIP."""
        return Transport(TransportConfig(strength=strength, stop=stop), pictures, self.path)

    def _field(self, labels: Tensor) -> sampler.Field:
        return self.task.parts.field(self.network, Condition(label=labels), 1.0)


def before(subject: Subject, base: float, strength: float, stop: float) -> Controls:
    """OTIP's transport of a strength, and then the pull of RF-Inversion."""
    return lambda pictures: [subject.transport(pictures, base), subject.pull(pictures, strength, stop)]


def reconstructions(subject: Subject) -> dict[str, dict[str, float]]:
    """Errors by gamma and pull, and by the strength of the transport; and how often it was shortened."""
    found = {}
    for gamma, strength, stop in PULLS:
        start = subject.inverted(gamma)
        figures = {
            f"transport {base:g}": subject.reconstruction(start, before(subject, base, strength, stop))
            for base in (0.0, *STRENGTHS)
        }
        figures["saved at 0.5"] = 1 - figures["transport 0.5"] / figures["transport 0"]
        both = before(subject, 0.5, strength, stop)(subject.pictures)
        assert isinstance(both[0], Transport)
        figures["shortened at 0.5"] = float(both[0].clip_rate(subject.drawn(start, subject.nothing, both)))
        found[pull_name(gamma, strength, stop)] = figures
    return found


def pull_name(gamma: float, strength: float, stop: float) -> str:
    """What a row of the reconstructions is called."""
    return f"gamma {gamma:g}, pull {strength:g} to {stop:g}"


def sweeps(subject: Subject) -> dict[str, list[Point]]:
    """The points of every sweep, in the order of `SWEEP`."""
    start, other = subject.inverted(GAMMA), subject.inverted(GAMMA, other=True)
    ways: dict[str, Callable[[float, float], Controls]] = {
        RIVAL: lambda strength, stop: before(subject, 0.0, strength, stop),
        CHANCE: lambda strength, stop: before(subject, 0.0, strength, stop),
        **{
            before_pull(base): lambda strength, stop, base=base: before(subject, base, strength, stop)
            for base in STRENGTHS
        },
        ALONE: lambda strength, stop: lambda pictures: [subject.transport(pictures, strength, stop)],
    }
    return {
        name: [subject.edit(other if name == CHANCE else start, way(*setting)) for setting in SWEEP]
        for name, way in ways.items()
    }


def single_points(subject: Subject, seed: int) -> dict[str, Point]:
    """Floors, and both methods at published settings."""
    start, plain = subject.inverted(GAMMA), subject.inverted(0.0)
    fresh = torch.randn(plain.shape, generator=torch.Generator().manual_seed(200 + seed))
    return {
        "the source itself": subject.point(subject.pictures, subject.pictures[:RECONSTRUCTED]),
        "back and forth, no control": subject.edit(plain, lambda _: []),
        "fresh noise": subject.edit(fresh, lambda _: [], steps=2 * STEPS),
        "gamma 0.5 alone": subject.edit(start, lambda _: []),
        "RF-Inversion, 0.9 to 0.25": subject.edit(start, before(subject, 0.0, 0.9, 0.25)),
        "OTIP 0.3, 0.9 to 0.25": subject.edit(start, before(subject, 0.3, 0.9, 0.25)),
    }


def front(points: Sequence[Point], error: str) -> list[tuple[float, float]]:
    """The lower edge of the convex hull, as (accuracy, error) with both increasing."""
    edge: list[tuple[float, float]] = []
    for accuracy, value in sorted((point.accuracy, getattr(point, error)) for point in points):
        while edge and edge[-1][1] >= value:
            edge.pop()
        while len(edge) > 1 and _above(edge[-2], edge[-1], (accuracy, value)):
            edge.pop()
        if not edge or accuracy > edge[-1][0]:
            edge.append((accuracy, value))
    return edge


def _above(left: tuple[float, float], middle: tuple[float, float], right: tuple[float, float]) -> bool:
    return (middle[1] - left[1]) * (right[0] - left[0]) >= (right[1] - left[1]) * (middle[0] - left[0])


def over_the_rival(points: Sequence[Point], rival: Sequence[Point], error: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Accuracies that both fronts reach, and the error over that of the rival there."""
    own, other = front(points, error), front(rival, error)
    levels = np.linspace(max(own[0][0], other[0][0]), min(own[-1][0], other[-1][0]), 200)
    return levels, read_off(own, levels) / read_off(other, levels)


def behind_and_ahead(points: Sequence[Point], rival: Sequence[Point], error: str) -> dict[str, float]:
    """The largest and the least error over that of the rival, at which accuracies, and where it first is 5 % more."""
    levels, ratio = over_the_rival(points, rival, error)
    far_behind = levels[ratio > WITHIN]
    return {
        "5 % behind from": float(far_behind[0]) if len(far_behind) else math.inf,
        "behind": float(ratio.max()),
        "at accuracy": float(levels[ratio.argmax()]),
        "ahead": float(ratio.min()),
        "at the accuracy": float(levels[ratio.argmin()]),
        "mean": float(ratio.mean()),
        "from accuracy": float(levels[0]),
        "to accuracy": float(levels[-1]),
    }


def read_off(edge: Sequence[tuple[float, float]], levels: NDArray[Any]) -> NDArray[Any]:
    """The errors of a front at some accuracies, which it reaches."""
    accuracies, errors = np.array(edge).T
    return np.interp(levels, accuracies, errors)


def along(edge: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """The errors of a front at those of `LEVELS` that it reaches."""
    reached = [level for level in LEVELS if edge[0][0] <= level <= edge[-1][0]]
    return {
        f"{level:g}": [float(error)] for level, error in zip(reached, read_off(edge, np.array(reached)), strict=True)
    }


def mean_points(of_seeds: Sequence[Sequence[Point]]) -> list[Point]:
    """The points of a sweep, each a mean over the seeds."""
    return [Point(*(fmean(values) for values in zip(*points, strict=True))) for points in zip(*of_seeds, strict=True)]


def bars(
    saved: Mapping[str, Mapping[str, Sequence[float]]], plane: Mapping[str, Sequence[Sequence[Point]]]
) -> list[Bar]:
    """What OTIP has to show.

    Args:
        saved: figures of the reconstructions by row, one value a seed.
        plane: points of each sweep, by seed.
    """
    usual = saved[pull_name(0.5, 0.5, 0.25)]
    by_base = [usual[f"transport {base:g}"] for base in (0.0, *STRENGTHS)]
    ratios = [
        more / less for weaker, stronger in pairwise(by_base) for less, more in zip(weaker, stronger, strict=True)
    ]
    found = [
        Bar("gamma 0.5, pull 0.5 to 0.25: error saved by transport 0.5", fmean(usual["saved at 0.5"]), 0.04, True),
        Bar("the same in the worst seed", min(usual["saved at 0.5"]), 0.04, True),
        Bar("there, a stronger transport over a weaker one, largest of all seeds", max(ratios), 1.0),
    ]
    for strength in (0.5, 0.9):
        harm = min(-value for value in saved[pull_name(0.0, strength, 0.25)]["saved at 0.5"])
        name = f"negative control, gamma 0 and pull {strength:g}: error added by transport 0.5, least seed"
        found.append(Bar(name, harm, 0.0, True))
    means = {name: mean_points(of_seeds) for name, of_seeds in plane.items()}
    for name, error in product(map(before_pull, STRENGTHS), ERRORS):
        behind = behind_and_ahead(means[name], means[RIVAL], error)["behind"]
        found.append(Bar(f"{name}: {error} over RF-Inversion's at equal accuracy, at worst", behind, WITHIN))
    return found


def main() -> int:
    """Trains, draws, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    errors, single, swept = [], [], []
    for seed in options.seeds:
        subject = Subject(seed)
        errors.append(reconstructions(subject))
        single.append({name: point._asdict() for name, point in single_points(subject, seed).items()})
        swept.append(sweeps(subject))
        print(f"seed {seed} is done", file=sys.stderr)
    saved = by_figure(errors)
    plane = {name: [own[name] for own in swept] for name in swept[0]}
    show("squared error of reconstructions", saved, [])
    show("on the plane", by_figure(single), [])
    means = {name: mean_points(of_seeds) for name, of_seeds in plane.items()}
    averaged = {}
    for error in ERRORS:
        fronts = {name: along(front(points, error)) for name, points in means.items()}
        show(f"{error} by accuracy on the front of each sweep of {len(SWEEP)}, points averaged", fronts, [])
        of_seeds = [{name: behind_and_ahead(own[name], own[RIVAL], error) for name in OTHERS} for own in swept]
        show(f"{error} over that of RF-Inversion's front, each seed by itself", by_figure(of_seeds), [])
        compared = {name: behind_and_ahead(means[name], means[RIVAL], error) for name in OTHERS}
        averaged |= {f"{error}, {name}": figures for name, figures in by_figure([compared]).items()}
    return show("over RF-Inversion's front, points averaged", averaged, bars(saved, plane))


if __name__ == "__main__":
    raise SystemExit(main())
