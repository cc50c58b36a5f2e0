"""Causal transitions: independent noises beside one: python -m tests.benchmarks.methods.causal_transition

Eight Gaussians (radius 3, deviation 0.25), whose two coordinates are two tokens. A causal transformer of 2 x 32 with a
head of 2 x 64 draws the states of a chain: ARTM reads the last state, FHTM all of them. In T = 1 transition both are
autoregression of continuous tokens, which is one rival. The other is flow matching, by a perceptron of 3 x 128 with as
many network calls as T = 2 takes, four. 1,500 steps of Adam of 256 examples each; 16 Euler steps of the head for each
token. The energy distance is that of 2,000 samples to 2,000 examples, the mean over five such sets; its floor, what
fresh examples get, is of the size of its noise.

Source: Shaul et al., "Transition Matching", arXiv 2506.23589, sections 3.2 and 3.3.
"""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import PlainNetwork, eight_gaussians, flow_task, follow, train
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.evaluation.quality import energy_distance
from trainer.model.build import build_model
from trainer.task import FlowTask

STEPS, BATCH, POINTS, SETS, CALLS = 1500, 256, 2000, 5, 4
NETWORK: dict[str, Any] = {
    "kind": "causal_transition",
    "hidden": 32,
    "num_layers": 2,
    "head": {"hidden": 64, "layers": 2},
    "label_dropout": 0.0,
}
VARIANTS = {
    "ARTM, T = 1": ("last", 1, "independent"),
    "ARTM, T = 2, independent": ("last", 2, "independent"),
    "ARTM, T = 2, linear": ("last", 2, "linear"),
    "FHTM, T = 2, independent": ("full", 2, "independent"),
    "FHTM, T = 2, linear": ("full", 2, "linear"),
}
"""History, transitions and process by the name of a row."""
FLOW, FLOOR = f"flow matching, {CALLS} calls", "data floor"
DATA = eight_gaussians(radius=3.0, std=0.25)


def run(seed: int) -> dict[str, dict[str, float]]:
    """Trains every variant and the rival, and measures each."""
    found = {name: causal(*settings, seed) for name, settings in VARIANTS.items()}
    task = flow_task()
    network = learned(task, PlainNetwork(2, hidden=128, layers=3, seed=seed), seed)
    found[FLOW] = {"energy": distance(seed, lambda x_0, _: follow(task, network, x_0, CALLS).final), "calls": CALLS}
    generator = torch.Generator().manual_seed(3000 + seed)
    return {**found, FLOOR: {"energy": distance(seed, lambda x_0, _: DATA(len(x_0), generator).x_1)}}


def causal(history: str, transitions: int, process: str, seed: int) -> dict[str, float]:
    """Distance of the samples of one variant, and calls of the network and of its head for a sample."""
    sections: dict[str, Any] = {
        "run": {"dir": "unused", "seed": seed},
        "data": {"kind": "toy", "name": "eight_gaussians"},
        "model": {**NETWORK, "history": history, "transitions": transitions},
        "sample": {"kind": "points", "sampler": {"kind": "causal_transition", "head": {"kind": "euler", "steps": 16}}},
        "optim": {"steps": 1, "global_batch": 1},
        "flow": {"objective": {"kind": "causal_transition", "process": process}},
    }
    config = RunConfig.model_validate(sections)
    task = FlowTask(config)
    network = learned(task, build_model(config, plan_layout(config, 1)), seed)
    calls: dict[str, float] = {}

    def drawn(x_0: Tensor, set_seed: int) -> Tensor:
        trajectory = follow(task, network, x_0, config=config.sample.sampler, seed=set_seed)  # pyright: ignore
        calls.update(trajectory.calls)
        return trajectory.final

    energy = distance(seed, drawn)
    return {"energy": energy, "calls": calls["network"], "head calls": calls["head"]}


def learned(task: FlowTask, network: nn.Module, seed: int) -> nn.Module:
    """The network with averaged weights after training."""
    return train(task, DATA, network, steps=STEPS, batch=BATCH, lr=2e-3, seed=seed, ema=0.995)


def distance(seed: int, drawn: Callable[[Tensor, int], Tensor]) -> float:
    """Mean energy distance of what is drawn to examples, over the sets of a seed."""
    found = []
    for number in range(SETS):
        generator = torch.Generator().manual_seed(1000 * (number + 1) + seed)
        start = torch.randn(POINTS, 2, generator=generator)
        data = DATA(POINTS, generator).x_1
        found.append(energy_distance(drawn(start, 1000 * (number + 1) + seed).numpy(), data.numpy()))
    return fmean(found)


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
    energy = {name: fmean(figures["energy"]) for name, figures in table.items()}
    independent = [name for name, (_, _, process) in VARIANTS.items() if process == "independent"]
    return show(
        "eight Gaussians, two coordinates as tokens, by calls of a sample",
        table,
        [
            Bar(
                "energy distance, FHTM: independent over linear",
                energy["FHTM, T = 2, independent"] / energy["FHTM, T = 2, linear"],
                0.4,
            ),
            *(Bar(f"energy distance: {name}", energy[name], 0.04) for name in independent),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main())
