"""Edits by zero-order corrections beside a pull to the picture: python -m tests.benchmarks.methods.flowopt_editing

A perceptron of 3 x 256 has learned 1,500 of the 8 x 8 digits with their classes. 100 other digits are taken to noise
under their own class by UniInv, with 15 steps, and drawn under the next class with Euler's method. Two things are
wanted of an edit, and stand against each other: the mean squared distance to the picture, and the share of edits that a
logistic regression takes for the requested class.

The first two tables: zero-order corrections with several step sizes ("own": for each digit 0.4 of the smallest bound
that its run has shown), after so many iterations. What keeps a picture also undoes its edit, so edits want small steps
and few of them. The last table: the share of the class at equal distances, read off the curve of each way by linear
interpolation, beside pulls to the picture (RF-Inversion) of strengths 0 to 1 that stop after so much of the way. A pull
costs one drawing, a correction one each.

Source: Ronai, Kulikov and Michaeli, "FlowOpt", arXiv 2510.22010; Rout et al., "Semantic Image Inversion and Editing
using Rectified Stochastic Differential Equations", arXiv 2410.10792.
"""

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, rows, train
from trainer.data import DigitsConfig
from trainer.data import build as data_of
from trainer.flow import Condition
from trainer.flow.control import Pull, PullConfig
from trainer.flow.inversion import UniInversion, zero_order
from trainer.flow.path import Linear
from trainer.flow.sampler import Euler

TRAINED, NUM, STEPS = 1500, 100, 15
SIZES: dict[str, float | None] = {"0.02": 0.02, "0.05": 0.05, "0.1": 0.1, "0.2": 0.2, "0.4": 0.4, "own": None}
SHOWN, ITERATIONS = (0, 1, 2, 4, 8, 16), 40
STOPS, STRENGTHS = (0.25, 0.5, 1.0), (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DISTANCE, CLASS, EQUAL = "distance", "class", "equal"
DISTANCES = (0.3, 0.25, 0.2, 0.15, 0.1)
Curve = list[tuple[float, float]]
"""Distance and share of the requested class, along one way."""
Tables = dict[str, dict[str, dict[str, float]]]


class Edits:
    """Digits on their way to the next class.

    Args:
        seed: of the division of the digits and of the training.
    """

    def __init__(self, seed: int) -> None:
        all_digits = data_of(DigitsConfig()).get(torch.arange(1797))
        assert all_digits.labels is not None
        pixels, labels = all_digits.x_1.flatten(1), all_digits.labels
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
        learned, others = order[:TRAINED], order[TRAINED : TRAINED + NUM]
        network, task = PlainNetwork(64, hidden=256, layers=3, seed=seed, num_classes=10), flow_task()
        train(task, rows(pixels[learned], labels[learned]), network, steps=4000, batch=256, lr=1e-3, seed=seed)
        network.eval().requires_grad_(False)
        self.judge = LogisticRegression(max_iter=2000).fit(pixels[learned].numpy(), labels[learned].numpy())
        self.pictures, own = pixels[others], labels[others]
        self.asked = (own + 1) % 10
        self.field = task.parts.field(network, Condition(label=self.asked), 1.0)
        self.times = torch.linspace(0, 1, STEPS + 1)
        keys = fold_in(torch.tensor(seed), torch.arange(NUM))
        own_field = task.parts.field(network, Condition(label=own), 1.0)
        self.noise = UniInversion().invert(own_field, self.pictures, self.times, keys=keys).noise

    def judged(self, edited: Tensor) -> tuple[float, float]:
        """Distance to the pictures, and share of the requested class."""
        distance = float((edited - self.pictures).square().mean())
        return distance, float(np.mean(self.judge.predict(edited.numpy()) == self.asked.numpy()))

    def corrected(self, size: float | None) -> Curve:
        """Along the iterations of zero-order corrections."""
        curve: Curve = []
        zero_order(
            lambda noise: Euler().sample(self.field, noise, self.times).final,
            self.pictures,
            self.noise,
            ITERATIONS,
            size,
            watch=lambda _number, _noise, drawn: curve.append(self.judged(drawn)),
        )
        return curve

    def pulled(self, stop: float) -> Curve:
        """Along the strengths of a pull to the pictures, from the plain edit on."""
        curve = [self.judged(Euler().sample(self.field, self.noise, self.times).final)]
        for strength in STRENGTHS:
            pull = Pull(PullConfig(strength=strength, stop=stop), self.pictures, Linear())
            curve.append(self.judged(Euler().sample(pull.over(self.field), self.noise, self.times).final))
        return curve


def share_at(curve: Curve, distance: float) -> float | None:
    """The share of the class at a distance; None if the curve does not reach it."""
    distances, shares = zip(*sorted(curve), strict=True)
    return float(np.interp(distance, distances, shares)) if distances[0] <= distance <= distances[-1] else None


@torch.no_grad()
def measured(edits: Edits) -> Tables:
    """All tables of one seed."""
    corrected = {f"zero-order, {name}": edits.corrected(size) for name, size in SIZES.items()}
    pulled = {f"pull until {stop:g}": edits.pulled(stop) for stop in STOPS}
    tables = {
        what: {name: {f"{number}": curve[number][place] for number in SHOWN} for name, curve in corrected.items()}
        for place, what in enumerate((DISTANCE, CLASS))
    }
    for name, curve in corrected.items():
        tables[DISTANCE][name]["largest ratio"] = max(after[0] / before[0] for before, after in pairwise(curve))
    tables[EQUAL] = {
        name: {f"{at}": share for at in DISTANCES if (share := share_at(curve, at)) is not None}
        for name, curve in (corrected | pulled).items()
    }
    return tables


def bars(of_seeds: Sequence[Tables]) -> list[Bar]:
    """What has to be shown."""
    fixed = [f"zero-order, {name}" for name, size in SIZES.items() if size is not None]
    ratios = [tables[DISTANCE][name]["largest ratio"] for tables in of_seeds for name in fixed]

    def share(name: str, at: float) -> float:
        """The mean over the seeds; 0 where a way does not come so near in one of them."""
        return fmean(tables[EQUAL][name].get(f"{at}", 0.0) for tables in of_seeds)

    def best_pull(at: float) -> float:
        return max(share(f"pull until {stop:g}", at) for stop in STOPS)

    return [
        Bar("distance over that of the iteration before, largest of all seeds, steps to 0.4", max(ratios), 1.0),
        *(
            Bar(f"share of the class at distance {at}, step 0.05, less that of the best pull", lead, 0.0, at_least=True)
            for at in DISTANCES
            for lead in (share("zero-order, 0.05", at) - best_pull(at),)
        ),
    ]


def main() -> int:
    """Trains, edits, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_seeds = [measured(Edits(seed)) for seed in options.seeds]

    def gathered(title: str) -> dict[str, dict[str, list[float]]]:
        first = of_seeds[0][title]
        return {
            row: {
                figure: [tables[title][row][figure] for tables in of_seeds]
                for figure in figures
                if all(figure in tables[title][row] for tables in of_seeds)
            }
            for row, figures in first.items()
        }

    show("mean squared distance to the picture by iteration", gathered(DISTANCE), [])
    show("share of the requested class by iteration", gathered(CLASS), [])
    return show("share of the requested class by distance", gathered(EQUAL), bars(of_seeds))


if __name__ == "__main__":
    raise SystemExit(main())
