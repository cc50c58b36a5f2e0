"""Kinetic-optimal paths: python -m tests.benchmarks.methods.kinetic_optimal

Energies are per dimension, of data with mean 0 and deviation 1, and over three seeds of what the estimate draws. The
integral is that of the path as it is written for training, its closed form the least energy with the same least price
of turning; what that price costs beside the least energy of all is in the last column. For comparison, a perceptron of
3 x 256 learns the 8 x 8 digits along each path: batch 256, Adam at 1e-3, moving average 0.98, 600 steps. FD is the
Fréchet distance on the 64 pixels of 1,797 samples to all digits; its floor is that of two halves of the digits.

Source: Shaul et al., "On Kinetic Optimal Probability Paths for Generative Models", arXiv 2306.06626.
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.immiscible import BATCH, LR, digits
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, follow, frechet_distance, rows, train
from trainer.flow import path
from trainer.flow.path.kinetic_optimal import (
    RATIOS,
    Separation,
    angle_between,
    estimate,
    fit,
    kinetic_energy,
    least_energy,
)

SEEDS = (0, 1, 2)
PRICE = 1e-3
STEPS = 600
EVALUATIONS = (5, 20, 100)
CLOUDS = (2, 64, 1024)


def circle() -> Tensor:
    """Eight points, evenly spaced."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def separations(seed: int) -> dict[str, Separation]:
    """What the estimate finds for each data set, and two that are known."""
    points = {"8 points on a circle": circle()}
    for dimensions in CLOUDS:
        generator = torch.Generator().manual_seed(1)
        points[cloud_name(dimensions)] = torch.randn(64, dimensions, generator=generator, dtype=torch.float64)
    points["digits"] = digits(centred=True)
    known = {"lambda = 1": torch.ones_like(RATIOS), "exact Gaussian": torch.zeros_like(RATIOS)}
    found = {name: Separation(prices, 1.0) for name, prices in known.items()}
    for name, x in points.items():
        prices = estimate(x, draws=2000, generator=torch.Generator().manual_seed(seed)).prices
        found[name] = Separation(prices, 1.0)
    return found


def cloud_name(dimensions: int) -> str:
    """What a row is called."""
    return f"64 points, d = {dimensions}"


def energies(separation: Separation) -> dict[str, float]:
    """A row of the table."""
    written = path.Tabulated(fit(separation, least_price=PRICE))
    return {
        "Phi": angle_between(separation),
        "least": least_energy(separation),
        "closed form": least_energy(separation, PRICE),
        "integral": kinetic_energy(written, separation, PRICE),
        "straight": kinetic_energy(path.linear, separation),
        "trigonometric": kinetic_energy(path.trigonometric, separation),
        "as written": kinetic_energy(written, separation),
    }


def trained(flow: dict[str, Any], data: Tensor, seed: int) -> dict[str, float]:
    """Fréchet distances of what a network draws with a few steps of Euler."""
    task = flow_task({"path": flow})
    network = PlainNetwork(64, hidden=256, layers=3, seed=seed)
    network = train(task, rows(data), network, steps=STEPS, batch=BATCH, lr=LR, final_lr=LR, seed=seed, ema=0.98)
    start = torch.randn(len(data), data.shape[1], generator=torch.Generator().manual_seed(1000 + seed))
    return {
        f"FD {evaluations}": frechet_distance(follow(task, network, start, evaluations).final.numpy(), data.numpy())
        for evaluations in EVALUATIONS
    }


def training(fitted: Separation, seeds: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Runs along each path, and the floor."""
    data = digits(centred=True)
    with tempfile.TemporaryDirectory() as folder:
        flows: dict[str, dict[str, Any]] = {"straight": {"kind": "linear"}, "trigonometric": {"kind": "trigonometric"}}
        for price in (PRICE, 10 * PRICE):
            file = Path(folder) / f"{price}.safetensors"
            fit(fitted, least_price=price).write(file)
            flows[f"kinetic-optimal, least price {price:g}"] = {"kind": "tabulated", "path": str(file)}
        found = {name: [trained(flow, data, seed) for seed in seeds] for name, flow in flows.items()}
    halves = []
    for seed in seeds:
        one, other = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))].chunk(2)
        halves.append(dict.fromkeys(found["straight"][0], frechet_distance(one.numpy(), other.numpy())))
    return found | {"halves of the digits": halves}


def table(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Figures by run and name, a value for each seed."""
    return {
        name: {figure: [one[figure] for one in of_seeds] for figure in of_seeds[0]} for name, of_seeds in found.items()
    }


def main() -> int:
    """Fits, trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-training", action="store_true", help="energies alone, half a minute")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_seeds = [separations(seed) for seed in options.seeds]
    found = table({name: [energies(one[name]) for one in of_seeds] for name in of_seeds[0]})

    def differences(first: str, second: str) -> list[float]:
        return [a - b for row in found.values() for a, b in zip(row[first], row[second], strict=True)]

    def gap(dimensions: int) -> float:
        row = found[cloud_name(dimensions)]
        return 1 - fmean(row["least"]) / fmean(row["straight"])

    code = show(
        "kinetic energy per dimension",
        found,
        [
            Bar(
                "largest difference of integral and closed form",
                max(map(abs, differences("integral", "closed form"))),
                1e-3,
            ),
            Bar(
                "largest excess of the least energy over the straight path's",
                max(differences("least", "straight")),
                1e-9,
            ),
            Bar("largest excess over the trigonometric path's", max(differences("least", "trigonometric")), 1e-9),
            Bar("share saved of the straight path's, d = 64 over d = 2", gap(64) / gap(2), 0.5),
            Bar("share saved of the straight path's, d = 1024 over d = 64", gap(1024) / gap(64), 0.5),
        ],
    )
    print("share saved:", ", ".join(f"d = {dimensions}: {gap(dimensions):.1%}" for dimensions in CLOUDS))
    known = of_seeds[0]["digits"].known
    asked = {r: int((RATIOS - r).abs().argmin()) for r in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)}
    print(
        "lambda of the digits:", ", ".join(f"r = {float(RATIOS[i]):.3f}: {float(known[i]):.3f}" for i in asked.values())
    )
    if options.no_training:
        return code
    runs = table(training(of_seeds[0]["digits"], options.seeds))
    best = fmean(runs[f"kinetic-optimal, least price {PRICE:g}"]["FD 5"])
    return code | show(
        "digits, 64 pixels, deviation 1",
        runs,
        [Bar("FD 5: kinetic-optimal over trigonometric", best / fmean(runs["trigonometric"]["FD 5"]), 1.0)],
    )


if __name__ == "__main__":
    raise SystemExit(main())
