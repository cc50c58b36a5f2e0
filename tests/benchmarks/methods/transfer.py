"""Transfer between two finite sets of points, made straight by reflow: python -m tests.benchmarks.methods.transfer

A perceptron of 3 x 128 carries 5,000 points of eight Gaussians to 5,000 of two moons, from independent pairs. Its
student goes on from its weights with 2,000 pairs that it has drawn in 100 steps, as the pairs verb draws them: they
begin at training points, none twice before all have come. A second student gets pairs that begin at the 200 held-out
points alone, cycled. The rival is minibatch transport, trained directly for as many steps as teacher and student
together: 1,000 each, batch 256. W2 is the distance of 2,000 samples to 2,000 examples, with points of neither split at
both ends; its floor is that of fresh examples.

Source: Liu et al., "Flow Straight and Fast", arXiv 2209.03003.
"""

import argparse
import copy
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import (
    Data,
    PlainNetwork,
    flow_task,
    follow,
    rows,
    straightness,
    train,
    wasserstein_2,
)
from trainer.data import Batch, Dataset, ToyConfig, build
from trainer.evaluation.transport import transport_cost
from trainer.flow import Condition
from trainer.flow.sampler import EulerConfig
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.pairs.drawing import PairDrawing
from trainer.sampling.pairs.request import PairsRequest
from trainer.task import FlowTask

SEEDS = (0, 1, 2)
STEPS, BATCH, POINTS, PAIRS, FINE = 1000, 256, 2000, 2000, 100
COUNTS = (1, 4, 100)
FINITE: dict[str, Any] = {"kind": "toy", "num_examples": 5000, "held_out": 200}
SOURCE, DATA = FINITE | {"name": "eight_gaussians"}, FINITE | {"name": "moons"}
TEACHER, STUDENT, FAULT = "teacher", "student", "student of held-out points"
RIVAL, FLOOR = "minibatch transport", "data floor"


def between(source: Dataset, data: Dataset) -> Data:
    """Batches of independent pairs of the training points of two sets."""
    starts, ends = source.indices("train"), data.indices("train")

    def draw(num: int, generator: torch.Generator) -> Batch:
        begins = starts[torch.randint(len(starts), (num,), generator=generator)]
        ids = ends[torch.randint(len(ends), (num,), generator=generator)]
        return Batch(data.get(ids).x_1, None, ids, x_0=source.get(begins).x_1)

    return draw


def task_of(coupling: str) -> FlowTask:
    """The transfer with one coupling."""
    return flow_task({"source": SOURCE, "coupling": {"kind": coupling}}, data=DATA)


def learned(coupling: str, data: Data, network: nn.Module, seed: int, steps: int = STEPS) -> nn.Module:
    """A copy of a network, trained with the averaged weights as the result."""
    task = task_of(coupling)
    return train(task, data, copy.deepcopy(network), steps=steps, batch=BATCH, lr=2e-3, seed=seed, ema=0.995)


def pairs(flow: TrainedFlow, num: int, seed: int, steps: int = FINE) -> tuple[Tensor, Tensor]:
    """Where pairs begin and end, drawn as the pairs verb does."""
    request = PairsRequest.model_validate(
        {"run": "unused", "num": num, "seed": seed, "sampler": {"kind": "euler", "steps": steps}}
    )
    arrays = PairDrawing(flow).draw(request, torch.arange(num), lambda _: None)
    return torch.from_numpy(arrays["x_0"]), torch.from_numpy(arrays["x_1"])


def cycled(flow: TrainedFlow, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same from held-out points alone."""
    unlabelled = Condition(torch.zeros(num, dtype=torch.int64))
    drawn = flow.follow(unlabelled, torch.arange(num), EulerConfig(steps=FINE), guidance=1.0, seed=seed)
    return drawn.x[0], drawn.final


def run(seed: int) -> dict[str, dict[str, float]]:
    """Trains every network and measures each."""
    source, data = (build(ToyConfig.model_validate(section)) for section in (SOURCE, DATA))
    real, first, task = between(source, data), PlainNetwork(2, hidden=128, layers=3, seed=seed), task_of("independent")
    networks = {
        TEACHER: learned("independent", real, first, seed),
        RIVAL: learned("minibatch_ot", real, first, seed, 2 * STEPS),
    }
    model: Any = networks[TEACHER]
    flow = TrainedFlow(task.config, task.parts, model)
    found: dict[str, dict[str, float]] = {}
    for name, (x_0, x_1) in {STUDENT: pairs(flow, PAIRS, seed), FAULT: cycled(flow, PAIRS, seed)}.items():
        networks[name] = learned("paired", rows(x_1, x_0=x_0), networks[TEACHER], seed + 100)
        found[name] = {"unique starts": len(x_0.unique(dim=0)), "of them trained on": share_of(x_0, source)}
    every = pairs(flow, FINITE["num_examples"] + 1000, seed, steps=1)[0]
    found[STUDENT]["unique starts of 6,000"] = len(every.unique(dim=0))
    measured = {name: figures(task, network, seed) for name, network in networks.items()}
    x_1, fresh = (unseen(DATA, seed, number) for number in (2, 3))
    floor = wasserstein_2(fresh.numpy(), x_1.numpy())
    measured[FLOOR] = {f"W2, {count}": floor for count in COUNTS}
    order = (TEACHER, STUDENT, FAULT, RIVAL, FLOOR)
    return {name: measured[name] | found.get(name, {}) for name in order}


def share_of(x_0: Tensor, source: Dataset) -> float:
    """The share of the different points that are training points of a set."""
    known = {tuple(point) for point in source.get(source.indices("train")).x_1.tolist()}
    starts = {tuple(point) for point in x_0.tolist()}
    return len(starts & known) / len(starts)


def unseen(section: dict[str, Any], seed: int, number: int) -> Tensor:
    """Points of a set that are in none of its splits."""
    generator = torch.Generator().manual_seed(1000 * number + seed)
    ids = torch.randint(2**40, 2**41, (POINTS,), generator=generator)
    return build(ToyConfig.model_validate({**section, "num_examples": None})).get(ids).x_1


def figures(task: FlowTask, network: nn.Module, seed: int) -> dict[str, float]:
    """Distances for each number of Euler steps, how far the points go, and how straight."""
    start, data = unseen(SOURCE, seed, 1), unseen(DATA, seed, 2).numpy()
    paths = {count: follow(task, network, start, count) for count in COUNTS}
    return {
        **{f"W2, {count}": wasserstein_2(path.final.numpy(), data) for count, path in paths.items()},
        "transport cost": transport_cost(paths[FINE]),
        "straightness": straightness(paths[FINE]),
    }


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    of_seeds = [run(seed) for seed in options.seeds]
    table = {
        name: {figure: [found[name][figure] for found in of_seeds] for figure in of_seeds[0][name]}
        for name in of_seeds[0]
    }

    def ratio(figure: str, name: str, other: str) -> float:
        return fmean(table[name][figure]) / fmean(table[other][figure])

    starts = table[STUDENT]
    code = show(
        "eight Gaussians to two moons, 5,000 points each, by function evaluations",
        table,
        [
            Bar("unique starts of 2,000 pairs", min(starts["unique starts"]), PAIRS, at_least=True),
            Bar("unique starts of 6,000 pairs", min(starts["unique starts of 6,000"]), 5000, at_least=True),
            Bar("share of them that are trained on", min(starts["of them trained on"]), 1.0, at_least=True),
            Bar("W2, 1 step: student over teacher", ratio("W2, 1", STUDENT, TEACHER), 0.5),
            Bar("W2, 1 step: student over that of held-out points", ratio("W2, 1", STUDENT, FAULT), 1.0),
            Bar("transport cost: student over teacher", ratio("transport cost", STUDENT, TEACHER), 1.0),
        ],
    )
    beside = ", ".join(f"{ratio(f'W2, {count}', STUDENT, RIVAL):.2f} in {count}" for count in COUNTS)
    print(f"W2: student over minibatch transport, {beside} evaluations")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
