"""FLAIR beside an exact posterior: python -m tests.benchmarks.methods.flair_posterior

Data are Gaussian, so that the field of the flow is exact and the posterior, given what a linear operator shows, has a
closed form. The priors: images of 4 x 4 values that are alike where they are near, of variance 0.1, 0.3 and 0.7, or
independent, of variance 0.5, with a mean of one deviation; and 8 x 8 values with the mean and the covariance of the
digits, and noise of deviation 0.1. Each has a hole in the middle, or half the resolution. "off" is the distance of the
mean of the restorations from that of the posterior, in parts of the posterior's deviation; "variance" is theirs over
the posterior's. Where both are right, the restorations have mean and variance of draws from the posterior, which for
Gaussian data is all that there is.

The calibrated weight and the ramp have the best of the same scales and last noise levels, in 400 steps, on the seeds of
`--pick-seeds`: the least mean over priors and operators of the larger of "off" and |1 - variance|. Other seeds are
reported. The request flair_posterior has to hold what is picked for the ramp.

Source: Erbach et al., "Solving Inverse Problems with FLAIR", arXiv 2506.02680.
"""

import math
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.immiscible import digits
from tests.trainer.flow.gaussian_prior import Beside, Gaussian, beside_posterior, gaussian, smooth_prior
from trainer.config.document import load_request
from trainer.flow.inverse import FlairConfig
from trainer.flow.operator import AveragePool, MaskConfig
from trainer.flow.path import Linear
from trainer.sampling.restore_request import RestoreRequest

STEPS, SCALES, LASTS = 400, (0.25, 0.5, 0.8, 1.0, 1.1, 1.25), (0.18, 0.05)
WEIGHTS: tuple[Literal["calibrated"], Literal["ramp"]] = ("calibrated", "ramp")
OPERATORS: dict[str, Any] = {"hole": MaskConfig(), "half": AveragePool()}
DEFAULT, REQUEST = "default", "flair_posterior"
Figures = dict[str, Beside]


def priors() -> dict[str, tuple[Gaussian, tuple[int, int, int]]]:
    """The fields, and the shapes of examples."""
    found = {
        f"variance {variance:g}": (smooth_prior(Linear(), variance, variance**0.5), (1, 4, 4))
        for variance in (0.1, 0.3, 0.7)
    }
    independent = gaussian(Linear(), torch.full((16,), 0.5**0.5).double(), 0.5 * torch.eye(16).double())
    pixels = digits(centred=False).double()
    covariance = torch.cov(pixels.T) + 0.01 * torch.eye(64, dtype=torch.float64)
    return {
        **found,
        "independent": (independent, (1, 4, 4)),
        "digits": (gaussian(Linear(), pixels.mean(0), covariance), (1, 8, 8)),
    }


def measured(method: FlairConfig, seed: int, num: int) -> Figures:
    """The figures of one method by prior and operator."""
    torch.set_num_threads(1)
    return {
        f"{prior}, {operator}": beside_posterior(field, method, OPERATORS[operator], shape, seed=seed, num=num)
        for (prior, (field, shape)), operator in product(priors().items(), OPERATORS)
    }


def distance(figures: Mapping[str, Beside]) -> float:
    """How far restorations are from the posterior, in one number."""
    return fmean(max(one.off, abs(1 - one.variance)) for one in figures.values())


def settings() -> dict[str, FlairConfig]:
    """Everything that is tried, by name."""
    return {
        f"{weight}, scale {scale:g}, last {last:g}": FlairConfig(weight=weight, scale=scale, steps=STEPS, last=last)
        for weight, scale, last in product(WEIGHTS, SCALES, LASTS)
    }


def tried(seed: int) -> dict[str, float]:
    """The distances of the settings; infinite where steps diverge."""
    found = {}
    for name, method in settings().items():
        try:
            found[name] = distance(measured(method, seed, num=100))
        except ValueError:
            found[name] = math.inf
    return found


def run(seed: int, methods: Mapping[str, FlairConfig]) -> dict[str, Figures]:
    """The figures of some methods."""
    return {name: measured(method, seed, num=300) for name, method in methods.items()}


def main() -> int:
    """Picks, restores, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    options = by_seed.parse_apart(by_seed.picking_parser(__doc__))
    distances = by_seed.for_seeds(options, tried, options.pick_seeds)
    means = {name: fmean(own[name] for own in distances) for name in settings()}
    show("distance from the posterior, on the seeds that it is picked on", {n: {"": [d]} for n, d in means.items()}, [])
    best = {
        weight: min((name for name in means if name.startswith(weight)), key=means.__getitem__) for weight in WEIGHTS
    }
    request = load_request(Path(REQUEST), [], RestoreRequest).method
    methods = {DEFAULT: FlairConfig(), **{name: settings()[name] for name in best.values()}, REQUEST: request}
    found = by_seed.for_seeds(options, partial(run, methods=methods))
    rows = {
        f"{name}: {figure}": {case: [getattr(own[name][case], figure) for own in found] for case in found[0][name]}
        for name, figure in product(methods, ("off", "variance"))
    }
    own = [one for of_seed in found for one in of_seed[REQUEST].values()]
    least = min(min(one.variance for one in of_seed[DEFAULT].values()) for of_seed in found)
    bars = [
        Bar(f"settings of {REQUEST} that are not those picked", float(request != settings()[best["ramp"]]), 0),
        Bar(f"{REQUEST}: off, worst of seeds, priors and operators", max(one.off for one in own), 0.15),
        Bar(f"{REQUEST}: variance, least", min(one.variance for one in own), 0.85, at_least=True),
        Bar(f"{REQUEST}: variance, largest", max(one.variance for one in own), 1.15),
        Bar(f"{DEFAULT}: variance, least", least, 0.1),
    ]
    return show("beside the posterior", rows, bars)


if __name__ == "__main__":
    raise SystemExit(main())
