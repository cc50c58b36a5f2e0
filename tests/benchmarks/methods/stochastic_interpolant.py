"""Stochastic interpolants from two moons to a checkerboard: python -m tests.benchmarks.methods.stochastic_interpolant

A perceptron of 3 x 128 learns velocity and noise of x_t = (1 - t) x_0 + t x_1 + sqrt(2 t (1 - t)) z over antithetic
points: batch 256, Adam from 2e-3 along half a cosine, 3,000 steps, and 300 for a network that is not done. Samples are
drawn by dX = (b + e score) dt + sqrt(2 e) dW, Euler and Maruyama, 200 steps. W2 is the distance of 2,000 samples to
2,000 examples; its floor is that of fresh examples.

First the same equation with the exact fields between N(0, 1) and N(2, 1/4), where no network errs: mean
and deviation of 50,000 samples, which are 2 and 0.5 if the sampler is right.

Source: Albergo, Boffi and Vanden-Eijnden, "Stochastic Interpolants", arXiv 2303.08797.
"""

import argparse
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import Data, PlainNetwork, flow_task, follow, train, wasserstein_2
from trainer.data import Batch, Dataset, ToyConfig, build
from trainer.flow import sampler
from trainer.flow.target import Quantity

SEEDS = (0, 1, 2)
BATCH, POINTS, SAMPLING_STEPS = 256, 2000, 200
STEPS = {"trained": 3000, "under-trained": 300}
DIFFUSIONS: dict[str, tuple[float, float]] = {f"e = {e:g}": (e, e) for e in (0.0, 0.5, 1.0, 2.0)}
FALLING: dict[str, tuple[float, float]] = {"e = 2 (1 - t)": (2.0, 0.0)}
MEAN, STD = 2.0, 0.5
EXACT = {0.0: 0.02, 0.5: 0.02, 2.0: 0.02, 5.0: 0.04}
"""How far mean and deviation may be off at 500 steps, for each diffusion, as a share of the truth."""


class Exact(sampler.Field):
    """Velocity and score of x_t = (1 - t) x_0 + t x_1 + g z, x_0 ~ N(0, 1), x_1 ~ N(MEAN, STD^2), g^2 = 2 t (1 - t)."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """See `Field`."""
        return self.estimate(x, t, "velocity")[0]

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """See `Field`."""
        t = t[:, None]
        off, variance = x - t * MEAN, (1 - t) ** 2 + t**2 * STD**2 + 2 * t * (1 - t)
        half_slope = -(1 - t) + t * STD**2 + (1 - 2 * t)
        found = {"velocity": MEAN + half_slope / variance * off, "score": -off / variance}
        return tuple(found[quantity] for quantity in quantities)


def exact(e: float, seed: int, steps: int) -> dict[str, float]:
    """Mean and deviation of what the exact fields draw."""
    x_0 = torch.randn(50_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    follows = sampler.EulerMaruyama(diffusion=(e, e))
    keys = fold_in(torch.tensor(seed), torch.arange(len(x_0)))
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    drawn = follows.sample(Exact(), x_0, times, keys=keys).final
    return {f"mean, {steps} steps": float(drawn.mean()), f"deviation, {steps} steps": float(drawn.std())}


def between(source: Dataset, data: Dataset) -> Data:
    """Batches of independent pairs of two endless sets."""

    def draw(num: int, generator: torch.Generator) -> Batch:
        ids = torch.randint(2**40, (2, num), generator=generator)
        return Batch(data.get(ids[1]).x_1, None, ids[1], x_0=source.get(ids[0]).x_1)

    return draw


def run(source: Dataset, data: Dataset, steps: int, seed: int) -> dict[str, float]:
    """Trains once and draws with every diffusion."""
    flow: dict[str, Any] = {
        "path": {"kind": "stochastic_interpolant", "gamma": {"kind": "brownian", "factor": 2.0}},
        "target": {"kind": "velocity_and_noise"},
        "objective": {"kind": "regression", "antithetic": True},
    }
    task = flow_task(flow)
    network = PlainNetwork(2, hidden=128, layers=3, seed=seed, num_fields=2)
    trained = train(task, between(source, data), network, steps=steps, batch=BATCH, lr=2e-3, seed=seed)
    pairs = between(source, data)(POINTS, torch.Generator().manual_seed(1000 + seed))
    assert pairs.x_0 is not None
    figures = {}
    for name, diffusion in {**DIFFUSIONS, **FALLING}.items():
        chosen = sampler.EulerMaruyama(steps=SAMPLING_STEPS, diffusion=diffusion)
        drawn = follow(task, trained, pairs.x_0, config=chosen, seed=seed).final
        figures[name] = wasserstein_2(drawn.numpy(), pairs.x_1.numpy())
    return figures


def floor(data: Dataset, seed: int) -> dict[str, float]:
    """What perfect samples would get at the data of a seed."""
    generator = torch.Generator().manual_seed(1000 + seed)
    examples, fresh = (between(data, data)(POINTS, generator).x_1.numpy() for _ in range(2))
    return dict.fromkeys([*DIFFUSIONS, *FALLING], wasserstein_2(fresh, examples))


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="moons", help="toy set that paths start at (default: moons)")
    parser.add_argument("--data", default="checkerboard", help="toy set that they end at (default: checkerboard)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    source, data = (build(ToyConfig.model_validate({"name": name})) for name in (options.source, options.data))
    normal = {
        f"exact fields, e = {e:g}": [{**exact(e, seed, 500), **exact(e, seed, 100)} for seed in options.seeds]
        for e in EXACT
    }
    found = {name: [run(source, data, steps, seed) for seed in options.seeds] for name, steps in STEPS.items()}
    found["data floor"] = [floor(data, seed) for seed in options.seeds]
    exact_table, table = (
        {
            name: {figure: [values[figure] for values in of_seeds] for figure in of_seeds[0]}
            for name, of_seeds in part.items()
        }
        for part in (normal, found)
    )
    failed = show(
        "N(0, 1) to N(2, 1/4), exact fields",
        exact_table,
        [
            Bar(f"{figure} at e = {e:g}, share by which the worst seed is off", off, EXACT[e])
            for e in EXACT
            for figure, truth in (("mean, 500 steps", MEAN), ("deviation, 500 steps", STD))
            for off in [max(abs(value / truth - 1) for value in exact_table[f"exact fields, e = {e:g}"][figure])]
        ],
    )
    distance = {name: fmean(table["trained"][name]) for name in DIFFUSIONS}
    best = min(distance.values())
    bars = [Bar(f"W2 over the best diffusion's, {name}", value / best, 1.15) for name, value in distance.items()]
    return show(f"W2, {options.source} to {options.data}", table, bars) | failed


if __name__ == "__main__":
    raise SystemExit(main())
