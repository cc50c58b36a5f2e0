"""Weighted flow matching beside independent pairs and transport: python -m tests.benchmarks.methods.weighted_cfm

A perceptron of 3 x 128 learns eight Gaussians (radius 4, deviation 0.3) from N(0, I): 2,500 steps of Adam, batch 256,
cost the squared distance. W2 is the distance of 2,000 samples to 2,000 examples; its floor is that of fresh examples.
The tilts are those of 8,192 weighted pairs. The strongest rival is minibatch transport, exact or by Sinkhorn, beside
which weights are to cost less time and not much quality; their paths are less straight.

Source: "Weighted Conditional Flow Matching", arXiv 2507.22270.
"""

import time
from statistics import fmean
from typing import Any

import torch

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import (
    PlainNetwork,
    eight_gaussians,
    flow_task,
    follow,
    path_energy,
    straightness,
    train,
    wasserstein_2,
)
from trainer.flow import UNCONDITIONAL
from trainer.flow.coupling import GibbsWeighted
from trainer.task import FlowTask
from trainer.training.weighting import tilt

SEEDS = (0, 1, 2)
STEPS, BATCH, POINTS = 2500, 256, 2000
GATE, DEFAULT, RIVAL = "W-CFM, epsilon 10", "W-CFM, share 0.5", "minibatch OT"
COUPLINGS: dict[str, dict[str, Any]] = {
    "independent": {"kind": "independent"},
    RIVAL: {"kind": "minibatch_ot"},
    "minibatch OT, Sinkhorn": {"kind": "minibatch_ot", "solver": "sinkhorn"},
    "W-CFM, epsilon 30": {"kind": "gibbs_weighted", "cost": "sqeuclidean", "epsilon": 30.0},
    GATE: {"kind": "gibbs_weighted", "cost": "sqeuclidean", "epsilon": 10.0},
    DEFAULT: {"kind": "gibbs_weighted", "cost": "sqeuclidean"},
    "W-CFM, epsilon 5": {"kind": "gibbs_weighted", "cost": "sqeuclidean", "epsilon": 5.0},
}


def run(coupling: dict[str, Any], seed: int) -> dict[str, float]:
    """Trains with one coupling and measures."""
    task = flow_task({"coupling": coupling})
    network = PlainNetwork(2, hidden=128, layers=3, seed=seed)
    train(task, eight_gaussians(), network, steps=STEPS, batch=BATCH, lr=2e-3, seed=seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    data = eight_gaussians()(POINTS, generator).x_1
    start = torch.randn(POINTS, 2, generator=generator)
    fine, coarse = (follow(task, network, start, steps) for steps in (100, 5))
    return {
        "W2, 100 steps": wasserstein_2(fine.final.numpy(), data.numpy()),
        "W2, 5 steps": wasserstein_2(coarse.final.numpy(), data.numpy()),
        "path energy": path_energy(fine),
        "straightness": straightness(fine),
        **of_weights(task, seed),
    }


def of_weights(task: FlowTask, seed: int) -> dict[str, float]:
    """Of 8,192 pairs: the effective share (sum w)^2 / (N sum w^2), and the change of variance of their ends."""
    if not isinstance(task.coupling, GibbsWeighted):
        return {"effective share": 1.0, "data variance": 0.0, "source variance": 0.0}
    generator = torch.Generator().manual_seed(2000 + seed)
    (drawn,) = task.draw([eight_gaussians()(8192, generator)], [generator])
    assert drawn.log_weight is not None
    weight = drawn.log_weight.double().softmax(0)
    data, source = (tilt([points], [weight]).variance for points in (drawn.sample.x_1, drawn.sample.x_0))
    share = float(1 / (len(weight) * weight.square().sum()))
    return {"effective share": share, "data variance": data, "source variance": source}


def floor(seed: int) -> dict[str, float]:
    """What perfect samples would get at the data of a seed, and the least energy that reaches them."""
    generator = torch.Generator().manual_seed(1000 + seed)
    data = eight_gaussians()(POINTS, generator).x_1.numpy()
    fresh = eight_gaussians()(POINTS, generator).x_1.numpy()
    distance = wasserstein_2(fresh, data)
    source = torch.randn(POINTS, 2, generator=generator).numpy()
    return {
        "W2, 100 steps": distance,
        "W2, 5 steps": distance,
        "path energy": wasserstein_2(source, data) ** 2,
        "straightness": 0.0,
    }


def drawing_s(coupling: dict[str, Any], batch: int, num_values: int = 2) -> float:
    """Least CPU time of a draw of pairs of states, over 20 turns."""
    built, generator = flow_task({"coupling": coupling}).coupling, torch.Generator().manual_seed(0)
    x_1, turns, draws = torch.randn(batch, num_values, generator=generator), [], max(1, 100 // num_values)
    for _ in range(20):
        begun = time.process_time()
        for _ in range(draws):
            built.draw_step([x_1], [UNCONDITIONAL], generators=[generator])
        turns.append((time.process_time() - begun) / draws)
    return min(turns)


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    torch.set_num_threads(1)
    found = {name: [run(coupling, seed) for seed in SEEDS] for name, coupling in COUPLINGS.items()}
    found["data floor"] = [floor(seed) for seed in SEEDS]
    table = {
        name: {figure: [values[figure] for values in of_seeds] for figure in of_seeds[0]}
        for name, of_seeds in found.items()
    }

    def mean(name: str, figure: str) -> float:
        return fmean(table[name][figure])

    def ratio(figure: str, name: str = GATE, other: str = "independent") -> float:
        return mean(name, figure) / mean(other, figure)

    def share(num_values: int, other: str, name: str = GATE) -> float:
        weighted, plain = (drawing_s(COUPLINGS[each], BATCH, num_values) for each in (name, other))
        return weighted / plain

    growth = drawing_s(COUPLINGS[GATE], 16 * BATCH) / drawing_s(COUPLINGS[GATE], BATCH)
    tilted = "W-CFM, epsilon 5"
    energy = mean(tilted, "path energy") / mean("data floor", "path energy")
    return show(
        "N(0, I) to eight Gaussians",
        table,
        [
            Bar("straightness, W-CFM over independent", ratio("straightness"), 0.5),
            Bar("W2, 100 steps, W-CFM over independent", ratio("W2, 100 steps"), 1.05),
            Bar("W2, 5 steps, W-CFM over independent", ratio("W2, 5 steps"), 1.0),
            Bar("effective share, W-CFM by default", mean(DEFAULT, "effective share"), 0.3, at_least=True),
            Bar("effective share, W-CFM by default", mean(DEFAULT, "effective share"), 0.8),
            Bar("straightness, W-CFM by default over independent", ratio("straightness", DEFAULT), 0.5),
            Bar("W2, 100 steps, W-CFM by default over minibatch OT", ratio("W2, 100 steps", DEFAULT, RIVAL), 1.25),
            Bar("W2, 5 steps, W-CFM by default over minibatch OT", ratio("W2, 5 steps", DEFAULT, RIVAL), 1.25),
            *(
                Bar(f"CPU time of 256 pairs of {num_values:,} values, W-CFM over {name}", share(num_values, name), most)
                for name, most in (("independent", 2.0), (RIVAL, 0.5))
                for num_values in (2, 64, 3072)
            ),
            *(
                Bar(
                    f"CPU time of 256 pairs of {num_values:,} values, W-CFM by default over {RIVAL}",
                    share(num_values, RIVAL, DEFAULT),
                    1.0,
                )
                for num_values in (2, 64, 3072)
            ),
            Bar("CPU time of W-CFM, 4,096 pairs over 256", growth, 16.0),
            Bar("path energy, epsilon 5 over the least possible: the tilt", energy, 1.0),
            Bar(
                "change of the source's variance, epsilon 5: the tilt is told",
                abs(mean(tilted, "source variance")),
                0.1,
                at_least=True,
            ),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
