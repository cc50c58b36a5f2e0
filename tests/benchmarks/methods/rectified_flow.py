"""Rectified flow: reflow and distillation: python -m tests.benchmarks.methods.rectified_flow

A perceptron of 3 x 128 carries N(0, I) to eight Gaussians (radius 4, deviation 0.3): the first flow (1-RF) learns from
independent pairs, the second (2-RF) goes on from its weights with 20,000 pairs that it has drawn in 100 steps, and is
then distilled to one step. 1,500 steps of Adam each, 1,000 for the distillation, batch 256. The error is squared, as in
the paper; beside it, the second flow with the pseudo-Huber error of improved consistency training, scale 0.00054
sqrt(d), here of each coordinate. The rival is minibatch transport, trained directly for as many steps as both flows
together. W2 is the distance of 2,000 samples to 2,000 examples, and its floor that of fresh examples; both are means
over three such sets.

Source: Liu et al., "Flow Straight and Fast", arXiv 2209.03003; the scale: Song and Dhariwal, "Improved Techniques for
Training Consistency Models", arXiv 2310.14189.
"""

import copy
import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import (
    Data,
    PlainNetwork,
    eight_gaussians,
    flow_task,
    follow,
    rows,
    straightness,
    train,
    wasserstein_2,
)
from trainer.evaluation.transport import transport_cost
from trainer.task import FlowTask

STEPS, DISTILLATION_STEPS, BATCH, POINTS, PAIRS, SETS = 1500, 1000, 256, 2000, 20_000, 3
FIRST, SECOND, DISTILLED, FLOOR = "1-RF", "2-RF", "2-RF, distilled", "data floor"
HUBER, RIVAL = "2-RF, pseudo-Huber error", "minibatch transport"
COUNTS = (1, 2, 100)
PAIRED: dict[str, Any] = {"coupling": {"kind": "paired"}}
TRANSPORT: dict[str, Any] = {"coupling": {"kind": "minibatch_ot"}}
ROBUST: dict[str, Any] = {"objective": {"error": {"kind": "pseudo_huber", "scale": 0.00054 * math.sqrt(2)}}}


def learned(
    flow: dict[str, Any], data: Data, network: nn.Module, seed: int, *, steps: int = STEPS, lr: float = 2e-3
) -> nn.Module:
    """A copy of a network, trained with the averaged weights as the result."""
    task = flow_task(flow)
    return train(task, data, copy.deepcopy(network), steps=steps, batch=BATCH, lr=lr, seed=seed, ema=0.995)


def run(seed: int) -> dict[str, dict[str, float]]:
    """Trains the three flows one after the other, and what stands beside them, and measures each."""
    untrained = PlainNetwork(2, hidden=128, layers=3, seed=seed)
    first = learned({}, eight_gaussians(), untrained, seed)
    task = flow_task()
    x_0 = torch.randn(PAIRS, 2, generator=torch.Generator().manual_seed(2000 + seed))
    drawn = rows(follow(task, first, x_0).final, x_0=x_0)
    second = learned(PAIRED, drawn, first, seed + 100)
    at_the_start = {**PAIRED, "time": {"kind": "grid", "steps": 1}}
    distilled = learned(at_the_start, drawn, second, seed + 200, steps=DISTILLATION_STEPS)
    robust = learned(PAIRED | ROBUST, drawn, first, seed + 100)
    transported = learned(TRANSPORT, eight_gaussians(), untrained, seed, steps=2 * STEPS)
    return {
        FIRST: figures(task, first, seed, COUNTS),
        SECOND: figures(task, second, seed, COUNTS),
        HUBER: figures(task, robust, seed, COUNTS),
        DISTILLED: figures(task, distilled, seed, (1,)),
        RIVAL: figures(task, transported, seed, COUNTS),
        FLOOR: floor(seed),
    }


def figures(task: FlowTask, network: nn.Module, seed: int, counts: tuple[int, ...]) -> dict[str, float]:
    """Distances for each number of Euler steps, and of a flow that is one its directness."""
    found = {
        f"W2, {count}": distance(seed, lambda start, count=count: follow(task, network, start, count).final)
        for count in counts
    }
    if 100 in counts:
        start = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(1000 + seed))
        paths = follow(task, network, start)
        found |= {"straightness": straightness(paths), "transport cost": transport_cost(paths)}
    return found


def distance(seed: int, drawn: Callable[[Tensor], Tensor]) -> float:
    """Mean distance of what is drawn to examples, over the sets of a seed."""
    found = []
    for number in range(SETS):
        generator = torch.Generator().manual_seed(1000 * (number + 1) + seed)
        start = torch.randn(POINTS, 2, generator=generator)
        data = eight_gaussians()(POINTS, generator).x_1
        found.append(wasserstein_2(drawn(start).numpy(), data.numpy()))
    return fmean(found)


def floor(seed: int) -> dict[str, float]:
    """What perfect samples would get at the same examples."""
    generator = torch.Generator().manual_seed(3000 + seed)
    fresh = distance(seed, lambda start: eight_gaussians()(len(start), generator).x_1)
    return {f"W2, {count}": fresh for count in COUNTS}


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_seeds = [run(seed) for seed in options.seeds]
    table = by_figure(of_seeds)

    def ratio(figure: str, name: str, other: str) -> float:
        return fmean(table[name][figure]) / fmean(table[other][figure])

    return show(
        "N(0, I) to eight Gaussians, by function evaluations",
        table,
        [
            Bar("W2, 1 step: 2-RF over the floor", ratio("W2, 1", SECOND, FLOOR), 1.15),
            Bar("W2, 1 step: 1-RF over the floor", ratio("W2, 1", FIRST, FLOOR), 3.0, at_least=True),
            Bar("straightness: 1-RF over 2-RF", ratio("straightness", FIRST, SECOND), 50.0, at_least=True),
            Bar("transport cost: 2-RF over 1-RF", ratio("transport cost", SECOND, FIRST), 1.0),
            Bar("W2, 100 steps: 2-RF over 1-RF", ratio("W2, 100", SECOND, FIRST), 1.1),
            Bar("W2, 1 step: distilled over the floor", ratio("W2, 1", DISTILLED, FLOOR), 1.15),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
