"""Transfer between two finite data sets, made straight by reflow: python -m tests.benchmarks.methods.transfer

Points: 5,000 of eight Gaussians to 5,000 of two moons, a perceptron of 3 x 128; the distance is W2 between 2,000
samples and 2,000 examples. Digits: the digits 0 to 4 to the digits 5 to 9, a perceptron of 3 x 256; the distance is
Fréchet's on the 64 pixels, between 200 samples and the training examples. What is compared begins at source points that
nobody trained on, and the floor is the distance of data points that nobody trained on.

A teacher learns from independent pairs of training points. Its student goes on from its weights with 2,000 pairs that
it has drawn in 100 steps, as the pairs verb draws them: they begin at training points, none twice before all have come.
A second student has as many pairs that begin at the held-out points alone, cycled: 200, or 100 digits. The rival is
minibatch transport, trained directly for as many steps as teacher and student together; 1,000 each, batch 256. Off the
teacher is the mean squared distance between one step of a student and 100 steps of its teacher from the same point, in
units of the transport cost.

Source: Liu et al., "Flow Straight and Fast", arXiv 2209.03003.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, by_figure, show
from tests.benchmarks.methods.plain_loop import (
    Data,
    PlainNetwork,
    flow_task,
    follow,
    frechet_distance,
    rows,
    straightness,
    train,
    wasserstein_2,
)
from trainer.data import Batch, Dataset, DigitsConfig, ToyConfig, build, write_shards
from trainer.evaluation.transport import transport_cost
from trainer.flow import Condition
from trainer.flow.sampler import Euler
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.pairs import PairDrawing
from trainer.sampling.pairs_request import PairsRequest
from trainer.task import FlowTask

SEEDS = (0, 1, 2)
STEPS, BATCH, POINTS, PAIRS, MORE_PAIRS, FINE = 1000, 256, 2000, 2000, 6000, 100
COUNTS = (1, 4, 100)
KEPT, HELD_OUT_DIGITS = 200, 100
FINITE: dict[str, Any] = {"kind": "toy", "num_examples": 5000, "held_out": 200}
SOURCE, DATA = FINITE | {"name": "eight_gaussians"}, FINITE | {"name": "moons"}
TEACHER, STUDENT, FAULT = "teacher", "student", "student of held-out points"
RIVAL, FLOOR = "minibatch transport", "data floor"
OFF, STARTS, MORE_STARTS, TRAINED_ON = "off the teacher", "starts", "starts of 6,000", "trained on"


@dataclass(frozen=True)
class Unseen:
    """What a transfer is judged by.

    Attributes:
        starts: [N, *D] source points that nobody trained on.
        examples: [M, *D] what samples are compared with.
        fresh: [N, *D] data points in place of samples.
    """

    starts: Tensor
    examples: Tensor
    fresh: Tensor


@dataclass(frozen=True)
class Transfer:
    """Two data sets, and how a flow between them is judged.

    Attributes:
        sections: ``flow.source``, ``data`` and ``model`` of a run's configuration.
        num_values: of a state.
        hidden: width of the network.
        unseen: from a seed to what is unseen.
        measure: what the distance is called.
        distance: between samples and examples.
    """

    sections: dict[str, dict[str, Any]]
    num_values: int
    hidden: int
    unseen: Callable[[int], Unseen]
    measure: str
    distance: Callable[[NDArray[np.floating], NDArray[np.floating]], float]

    def task(self, coupling: str) -> FlowTask:
        """The flow with one coupling."""
        flow = {"source": self.sections["source"], "coupling": {"kind": coupling}}
        return flow_task(flow, data=self.sections["data"], model=self.sections["model"])

    def learned(self, coupling: str, data: Data, network: nn.Module, seed: int, steps: int = STEPS) -> nn.Module:
        """A copy of a network, trained with the averaged weights as the result."""
        task, own = self.task(coupling), copy.deepcopy(network)
        return train(task, data, own, steps=steps, batch=BATCH, lr=2e-3, seed=seed, ema=0.995)

    def run(self, seed: int) -> dict[str, dict[str, float]]:
        """Trains every network and measures each."""
        task = self.task("independent")
        assert task.config.source_data is not None
        source = build(task.config.source_data)
        real = between(source, build(task.config.data))
        first = PlainNetwork(self.num_values, hidden=self.hidden, layers=3, seed=seed)
        networks = {
            TEACHER: self.learned("independent", real, first, seed),
            RIVAL: self.learned("minibatch_ot", real, first, seed, 2 * STEPS),
        }
        model: Any = networks[TEACHER]
        flow = TrainedFlow(task.config, task.parts, model)
        found: dict[str, dict[str, float]] = {}
        for name, (x_0, x_1) in {STUDENT: pairs(flow, PAIRS, seed), FAULT: cycled(flow, PAIRS, seed)}.items():
            networks[name] = self.learned("paired", rows(x_1, x_0=x_0), networks[TEACHER], seed + 100)
            found[name] = {STARTS: len(different(x_0)), TRAINED_ON: share_of(x_0, source)}
        found[STUDENT][MORE_STARTS] = len(different(pairs(flow, MORE_PAIRS, seed, steps=1)[0]))
        unseen = self.unseen(seed)
        reached = follow(task, networks[TEACHER], unseen.starts, FINE)
        for name in (STUDENT, FAULT):
            drawn = follow(task, networks[name], unseen.starts, 1).final
            off = (drawn - reached.final).square().flatten(1).sum(1).mean()
            found[name][OFF] = float(off) / transport_cost(reached)
        table = {name: self.figures(task, networks[name], unseen) for name in (TEACHER, STUDENT, FAULT, RIVAL)}
        floor = self.distance(unseen.fresh.numpy(), unseen.examples.numpy())
        table[FLOOR] = {f"{self.measure}, {count}": floor for count in COUNTS}
        return {name: figures | found.get(name, {}) for name, figures in table.items()}

    def figures(self, task: FlowTask, network: nn.Module, unseen: Unseen) -> dict[str, float]:
        """Distances for each number of Euler steps, how far the points go, and how straight."""
        paths = {count: follow(task, network, unseen.starts, count) for count in COUNTS}
        examples = unseen.examples.numpy()
        return {
            **{f"{self.measure}, {count}": self.distance(paths[count].final.numpy(), examples) for count in COUNTS},
            "cost": transport_cost(paths[FINE]),
            "straightness": straightness(paths[FINE]),
        }


def between(source: Dataset, data: Dataset) -> Data:
    """Batches of independent pairs of the training points of two sets."""
    starts, ends = source.indices("train"), data.indices("train")

    def draw(num: int, generator: torch.Generator) -> Batch:
        begins = starts[torch.randint(len(starts), (num,), generator=generator)]
        ids = ends[torch.randint(len(ends), (num,), generator=generator)]
        return Batch(data.get(ids).x_1, None, ids, x_0=source.get(begins).x_1)

    return draw


def pairs(flow: TrainedFlow, num: int, seed: int, steps: int = FINE) -> tuple[Tensor, Tensor]:
    """Where pairs begin and end, drawn as the pairs verb does."""
    request = PairsRequest(run=Path("unused"), num=num, seed=seed, sampler=Euler(steps=steps))
    arrays = PairDrawing(flow).draw(request, torch.arange(num), lambda _: None)
    return torch.from_numpy(arrays["x_0"]), torch.from_numpy(arrays["x_1"])


def cycled(flow: TrainedFlow, num: int, seed: int) -> tuple[Tensor, Tensor]:
    """The same from held-out points alone."""
    unlabelled = Condition(torch.zeros(num, dtype=torch.int64))
    drawn = flow.follow(unlabelled, torch.arange(num), Euler(steps=FINE), guidance=1.0, seed=seed)
    return drawn.x[0], drawn.final


def different(x: Tensor) -> set[tuple[float, ...]]:
    """The points without those that come again."""
    return {tuple(point) for point in x.flatten(1).tolist()}


def share_of(x_0: Tensor, source: Dataset) -> float:
    """The share of the different points that are training points of a set."""
    starts = different(x_0)
    return len(starts & different(source.get(source.indices("train")).x_1)) / len(starts)


def points() -> Transfer:
    """The transfer in the plane."""

    def fresh(section: dict[str, Any], seed: int, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * number + seed)
        ids = torch.randint(2**40, 2**41, (POINTS,), generator=generator)
        return build(ToyConfig.model_validate({**section, "num_examples": None})).get(ids).x_1

    def unseen(seed: int) -> Unseen:
        return Unseen(fresh(SOURCE, seed, 1), fresh(DATA, seed, 2), fresh(DATA, seed, 3))

    sections = {"source": SOURCE, "data": DATA, "model": {"kind": "mlp"}}
    return Transfer(sections, 2, 128, unseen, "W2", wasserstein_2)


def digits(folder: Path) -> Transfer:
    """The transfer between digits, whose sets are written to a folder; 200 of each are kept back."""
    every = DigitsConfig(held_out=1, size=8).open().get(torch.arange(1797))
    assert every.labels is not None
    lower = every.labels < 5
    written, kept = {}, {}
    for name, images in {"source": every.x_1[lower], "data": every.x_1[~lower]}.items():
        images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        kept[name] = images[:KEPT]
        path = folder / name
        path.mkdir()
        write_shards(path, [(images[KEPT:].numpy(), None)])
        written[name] = {"kind": "shards", "path": str(path), "held_out": HELD_OUT_DIGITS}
    sections = {**written, "model": {"kind": "dit"}}
    data = build(flow_task({}, data=written["data"], model={"kind": "dit"}).config.data)
    unseen = Unseen(kept["source"], data.get(data.indices("train")).x_1, kept["data"])
    return Transfer(sections, 64, 256, lambda _: unseen, "Fréchet", frechet_distance)


def report(title: str, transfer: Transfer, seeds: list[int]) -> int:
    """Runs a transfer with every seed and prints it; 0 if every bar is met, otherwise 1."""
    of_seeds = [transfer.run(seed) for seed in seeds]
    table = by_figure(of_seeds)

    def ratio(figure: str, name: str, other: str) -> float:
        return fmean(table[name][figure]) / fmean(table[other][figure])

    own, first = table[STUDENT], f"{transfer.measure}, 1"
    config = transfer.task("independent").config
    assert config.source_data is not None
    num = len(build(config.source_data).indices("train"))
    code = show(
        f"{title}, {num:,} source points to train on",
        table,
        [
            Bar("different starts of 2,000 pairs", min(own[STARTS]), min(PAIRS, num), at_least=True),
            Bar("different starts of 6,000 pairs", min(own[MORE_STARTS]), min(MORE_PAIRS, num), at_least=True),
            Bar("share of them that are trained on", min(own[TRAINED_ON]), 1.0, at_least=True),
            Bar(f"{first} step: student over teacher", ratio(first, STUDENT, TEACHER), 0.55),
            Bar("transport cost: student over teacher", ratio("cost", STUDENT, TEACHER), 1.0),
            Bar("off the teacher: student over that of held-out points", ratio(OFF, STUDENT, FAULT), 1.0),
        ],
    )
    for name in (RIVAL, FAULT):
        beside = ", ".join(f"{ratio(f'{transfer.measure}, {count}', STUDENT, name):.3g} in {count}" for count in COUNTS)
        print(f"{transfer.measure}: student over {name}, {beside} evaluations")
    return code


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("points", "digits", "both"), default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    code = 0
    if options.part != "digits":
        code |= report("eight Gaussians to two moons", points(), options.seeds)
    if options.part != "points":
        with tempfile.TemporaryDirectory() as folder:
            code |= report("the digits 0 to 4 to the digits 5 to 9", digits(Path(folder)), options.seeds)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
