"""Immiscible couplings beside independent pairs: python -m tests.benchmarks.methods.immiscible

A perceptron of 3 x 256 learns the 8 x 8 digits without their classes: batch 256, Adam at 1e-3, moving average 0.98.
FD is the Fréchet distance on the 64 pixels of 1,797 samples, Euler with so many steps, to all digits; its floor is
that of two halves of the digits. Centred pixels have mean 0 each and deviation 1 overall; the raw ones show what a
source that leans to data with a mean does.

Source: "Improved Immiscible Diffusion", arXiv 2505.18521.
"""

from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task, follow, frechet_distance, rows, train
from trainer.data import DigitsConfig, build

SEEDS = (0, 1, 2)
BATCH, LR = 256, 1e-3
STEPS = (600, 1000)
FLOWS: dict[str, dict[str, Any]] = {
    "independent": {},
    "knn, k = 2": {"coupling": {"kind": "knn", "k": 2}},
    "knn, k = 4": {"coupling": {"kind": "knn", "k": 4}},
    "assignment": {"coupling": {"kind": "assignment"}},
    "independent, data x 2": {"data_scale": 2.0},
}


def digits(centred: bool) -> Tensor:
    """All digits [1797, 64], raw in [-1, 1] or centred and of deviation 1."""
    pixels = build(DigitsConfig()).get(torch.arange(1797)).x_1.flatten(1)
    if not centred:
        return pixels
    pixels = pixels - pixels.mean(0)
    return pixels / pixels.square().mean().sqrt()


def run(flow: dict[str, Any], data: Tensor, seed: int) -> dict[str, float]:
    """Trains at a constant rate and measures on the way."""
    task = flow_task(flow)
    start = torch.randn(len(data), data.shape[1], generator=torch.Generator().manual_seed(1000 + seed))
    figures = {}

    def measure(step: int, trained: nn.Module) -> None:
        if step in STEPS:
            for evaluations in (3, 20):
                drawn = task.parts.data_of(follow(task, trained, start, evaluations).final)
                figures[f"FD {evaluations}, {step} steps"] = frechet_distance(drawn.numpy(), data.numpy())

    network = PlainNetwork(64, hidden=256, layers=3, seed=seed)
    rate: dict[str, Any] = {"lr": LR, "final_lr": LR, "ema": 0.98}
    train(task, rows(data), network, steps=STEPS[-1], batch=BATCH, seed=seed, watch=measure, **rate)
    return figures


def floor(data: Tensor, seed: int) -> dict[str, float]:
    """The distance between two halves of the data."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    one, other = data[order].chunk(2)
    distance = frechet_distance(one.numpy(), other.numpy())
    return {f"FD {evaluations}, {steps} steps": distance for steps in STEPS for evaluations in (3, 20)}


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    torch.set_num_threads(1)
    centred, raw = digits(centred=True), digits(centred=False)
    found = {name: [run(flow, centred, seed) for seed in SEEDS] for name, flow in FLOWS.items()}
    found["halves of the digits"] = [floor(centred, seed) for seed in SEEDS]
    for name in ("independent", "knn, k = 4"):
        found[f"{name}, raw"] = [run(FLOWS[name], raw, seed) for seed in SEEDS]
    found["halves of the digits, raw"] = [floor(raw, seed) for seed in SEEDS]
    table = {
        name: {figure: [values[figure] for values in of_seeds] for figure in of_seeds[0]}
        for name, of_seeds in found.items()
    }

    def mean(name: str, figure: str) -> float:
        return fmean(table[name][figure])

    bars = [
        Bar(
            f"{figure}: knn, k = 4, over independent",
            mean("knn, k = 4", figure) / mean("independent", figure),
            limit,
        )
        for figure, limit in (
            *((f"FD 3, {steps} steps", 0.75) for steps in STEPS),
            *((f"FD 20, {steps} steps", 0.95) for steps in STEPS),
        )
    ]
    saved = mean("assignment", "FD 20, 600 steps") / mean("independent", "FD 20, 1000 steps")
    bars.append(Bar("FD 20: assignment after 600 steps over independent after 1,000", saved, 1.0))
    harm = mean("knn, k = 4, raw", "FD 20, 1000 steps") / mean("independent, raw", "FD 20, 1000 steps")
    bars.append(Bar("raw pixels, the negative control: FD 20, knn over independent", harm, 1.0, at_least=True))
    return show("digits, 64 pixels", table, bars)


if __name__ == "__main__":
    raise SystemExit(main())
