"""Blockwise flow matching on points and on digits: python -m tests.benchmarks.methods.blockwise

Points: eight Gaussians of deviation 0.12, a perceptron of three layers for each of six segments of the time against one
for all times, of equal and of 2.7 times the arithmetic an evaluation. A sample is stray if it is more than four
deviations from each mode. Digits: a trunk of four blocks whose features are aligned with the hidden layer of a
classifier, one block for each of four segments, 1,200 steps, and a residual network of one block, 2,000 steps, because
after 500 its samples are still improving.

Source: Park et al., "Blockwise Flow Matching", arXiv 2510.21167.
"""

import argparse
import math
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import eight_gaussians, flow_task, frechet_distance, rows, train
from trainer.config.model import BlockwiseConfig, BlockwiseMLPConfig
from trainer.data import SPLITS, DigitsConfig
from trainer.evaluation.feature_classifier import trained_classifier
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.coupling import Pairs
from trainer.flow.field import SegmentField
from trainer.flow.objective.regression import alignment
from trainer.flow.question import Approximation, WithFeatures, WithProjection
from trainer.flow.sampler import Euler, Segmented
from trainer.model.blockwise import Blockwise, BlockwiseMLP
from trainer.model.feature_extractor.extractor import write_extractor
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised
from trainer.task import FlowTask

SEEDS = (0, 1, 2)
STD, FAR = 0.12, 4
POINTS = {"M = 1, width 24": (1, 24), "M = 6, width 24": (6, 24), "M = 1, width 40": (1, 40)}
DIGITS: dict[str, Any] = {"segments": 4, "hidden": 64, "num_heads": 4, "trunk_layers": 4, "teacher_features": 64}
STEPS_OF_A_SEGMENT = 8

Rows = dict[str, dict[str, list[float]]]


def points(found: Rows, seed: int, steps: int) -> None:
    """Trains the three perceptrons and counts their stray samples, beside those of the data."""
    angle = torch.arange(8) * (math.pi / 4)
    modes = 4.0 * torch.stack([angle.cos(), angle.sin()], dim=1)
    data = eight_gaussians(std=STD)
    x_0 = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(1000 + seed))
    drawn = {"data": data(20_000, torch.Generator().manual_seed(2000 + seed)).x_1}
    for name, (segments, hidden) in POINTS.items():
        config = BlockwiseMLPConfig(segments=segments, hidden=hidden)
        time = {"time": {"kind": "stratified", "segments": segments}} if segments > 1 else {}
        task = flow_task(time, model=config.model_dump())
        network = initialised(BlockwiseMLP(NetworkSpec(config=config, state_shape=(2,))), seed)
        trained = train(task, data, network, steps=steps, batch=768, lr=3e-3, seed=seed)
        drawn[name] = followed(task, trained, x_0, UNCONDITIONAL, 48 // segments, segments)
    for name, x in drawn.items():
        distance = torch.cdist(x, modes).amin(1)
        note(
            found,
            name,
            strays=float((distance > FAR * STD).double().mean()),
            rms=float(distance.square().mean().sqrt()),
        )
        if name in POINTS:
            hidden = POINTS[name][1]
            note(found, name, multiply_adds=3 * hidden + 2 * hidden**2 + 2 * hidden)


@torch.no_grad()
def followed(
    task: FlowTask,
    network: Any,
    x_0: Tensor,
    condition: Condition,
    steps: int,
    segments: int,
    *,
    approximates: bool = False,
) -> Tensor:
    """Samples by so many steps of Euler's method a segment."""
    config = Segmented(segments=segments, within=Euler(steps=steps))
    field = task.parts.field(network, condition, 1.0)
    assert isinstance(field, SegmentField)
    field = replace(field, approximates=approximates)
    return config.build(task.parts.path).sample(field, x_0, config.grid()).final


class DigitsOfASeed:
    """The digits, a teacher, and both stages of the training with one seed."""

    def __init__(self, seed: int, folder: Path, found: Rows) -> None:
        digits = DigitsConfig(held_out=360, size=8).open()
        learned, held_out = (digits.get(digits.indices(split)) for split in SPLITS)
        assert learned.labels is not None
        assert held_out.labels is not None
        self.seed, self.found = seed, found
        self.images, self.labels = learned.x_1, learned.labels
        self.held_out, self.held_out_labels = held_out.x_1, held_out.labels
        self.classifier = trained_classifier(self.images, self.labels, hidden=[64], seed=seed)
        self.teacher = folder / f"teacher_{seed}.safetensors"
        write_extractor(nn.Sequential(*list(self.classifier)[:-1]), self.teacher, (1, 8, 8))

    def run(self, main_steps: int, residual_steps: int) -> None:
        """Trains and measures."""
        data = rows(self.images, self.labels)
        task = self._task({"kind": "aligned", "teacher": str(self.teacher)})
        main = train(task, data, self._network(), steps=main_steps, batch=128, lr=2e-3, seed=self.seed, ema=0.99)
        assert isinstance(main, Blockwise)
        self._alignment(task, main)
        whole = self._network(residual_layers=1)
        missing = whole.load_state_dict(main.state_dict(), strict=False)
        assert all(name.startswith("residual") for name in missing.missing_keys)
        residual_task = self._task({"kind": "feature_residual"})
        trained = train(residual_task, data, whole, steps=residual_steps, batch=128, lr=2e-3, seed=self.seed, ema=0.99)
        assert isinstance(trained, Blockwise)
        self._residual(residual_task, trained)
        self._samples(residual_task, trained)

    def _network(self, **settings: Any) -> Blockwise:
        config = BlockwiseConfig(**DIGITS, **settings)
        return initialised(Blockwise(NetworkSpec(config=config, state_shape=(1, 8, 8), num_classes=10)), self.seed)

    def _task(self, objective: dict[str, Any]) -> FlowTask:
        flow = {"time": {"kind": "stratified", "segments": 4}, "objective": objective}
        return flow_task(flow, model={"kind": "blockwise", **DIGITS})

    def _points(self, task: FlowTask) -> tuple[Any, Condition]:
        """Four points on the path of each held-out digit."""
        generator = torch.Generator().manual_seed(3000 + self.seed)
        images, labels = self.held_out.repeat(4, 1, 1, 1), self.held_out_labels.repeat(4)
        noise, t = torch.randn(images.shape, generator=generator), torch.rand(len(images), generator=generator)
        return task.parts.path.sample(Pairs(noise, images), t, generator=generator), Condition(labels)

    @torch.no_grad()
    def _alignment(self, task: FlowTask, network: Blockwise) -> None:
        sample, condition = self._points(task)
        _, projected = network(sample.x_t, sample.t, condition, WithProjection())
        taught = self.classifier[:-1](sample.x_1)
        mean = self.classifier[:-1](self.images).mean(0)
        note(self.found, "network", cosine=float(alignment(projected, taught).mean()))
        floor = functional.cosine_similarity(taught, mean[None])
        note(self.found, "the teacher's mean", cosine=float(floor.mean()))

    @torch.no_grad()
    def _residual(self, task: FlowTask, network: Blockwise) -> None:
        sample, condition = self._points(task)

        def states_at(t: Tensor) -> Tensor:
            return sample.x_0 + t[:, None, None, None] * (sample.x_1 - sample.x_0)

        found, true = network(sample.x_t, sample.t, condition, Approximation(states_at))
        start = (sample.t * 4).floor() / 4
        _, frozen = network(states_at(start), start, condition, WithFeatures())
        for name, features in (("residual network", found), ("frozen at the start", frozen)):
            note(self.found, name, feature_error=float((features - true).square().sum() / true.square().sum()))

    def _samples(self, task: FlowTask, network: Blockwise) -> None:
        x_0 = torch.randn(self.images.shape, generator=torch.Generator().manual_seed(4000 + self.seed))
        real = self.images.numpy()
        calls: Counter[str] = Counter()
        for block in network.blocks:
            block.register_forward_hook(lambda *_: calls.update(["block"]))
        for name, approximates in (("trunk at each step", False), ("residual network", True)):
            calls.clear()
            condition = Condition(self.labels)
            drawn = followed(task, network, x_0, condition, STEPS_OF_A_SEGMENT, 4, approximates=approximates)
            distance = frechet_distance(drawn.numpy(), real)
            note(self.found, name, frechet=distance, block_calls=calls["block"] / 4)
        note(self.found, "360 held-out digits", frechet=frechet_distance(self.held_out.numpy(), real))


def note(found: Rows, name: str, **figures: float) -> None:
    """Adds figures of one seed to a row."""
    for figure, value in figures.items():
        found.setdefault(name, defaultdict(list))[figure].append(value)


def point_bars(found: Rows) -> list[Bar]:
    """What is asked of six perceptrons."""
    strays = {name: fmean(found[name]["strays"]) for name in POINTS}
    six = strays["M = 6, width 24"]
    return [
        Bar("stray samples: M = 6 over M = 1 of equal arithmetic", six / strays["M = 1, width 24"], 0.75),
        Bar("stray samples: M = 6 over M = 1 of 2.7 times the arithmetic", six / strays["M = 1, width 40"], 1.1),
    ]


def digit_bars(found: Rows) -> list[Bar]:
    """What is asked of the trunk and the residual network."""

    def mean(name: str, figure: str) -> float:
        return fmean(found[name][figure])

    error = mean("residual network", "feature_error") / mean("frozen at the start", "feature_error")
    distances = mean("residual network", "frechet") / mean("trunk at each step", "frechet")
    return [
        Bar("cosine with the teacher on held-out digits", mean("network", "cosine"), 0.7, at_least=True),
        Bar("error of features: residual network over frozen", error, 0.5),
        Bar("block calls a segment, trunk at each step", mean("trunk at each step", "block_calls"), 40),
        Bar("block calls a segment, residual network", mean("residual network", "block_calls"), 19),
        Bar("Fréchet distance: residual network over trunk at each step", distances, 1.1),
    ]


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("points", "digits", "both"), default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    if options.part != "digits":
        found: Rows = {}
        for seed in options.seeds:
            points(found, seed, steps=6000)
        failed += show("eight Gaussians of deviation 0.12", found, point_bars(found))
    if options.part != "points":
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for seed in options.seeds:
                DigitsOfASeed(seed, Path(folder), found).run(main_steps=1200, residual_steps=2000)
        failed += show("digits", found, digit_bars(found))
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
