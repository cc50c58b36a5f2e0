"""Difference transition matching: python -m tests.benchmarks.methods.dtm

Plane: N(0, I) to eight Gaussians (radius 3, deviation 0.25). A trunk of two blocks of width 128 and a head of 2 x 128
are trained with four draws of the head for each call of the trunk; the rival is flow matching with three such blocks.
2,000 steps of Adam, batch 256. The energy distance is of 2,000 samples to 2,000 examples, a mean over five such sets;
it is unbiased, so that its floor scatters around 0. The head's mean is compared with the exact velocity at t = 0.5.

Digits: a transformer of three blocks of width 64 over the 8 x 8 digits, by class, without guidance, 2,400 steps of
batch 64; the head of difference transition matching costs less than a tenth of its arithmetic a call, the rival is
flow matching with the same transformer. FD is the Fréchet distance on the 64 pixels to the images of training; its
floor is that of the 360 held-out images. Arithmetic is in calls of the rival's network: trunk and head together.

Source: Shaul et al., "Transition Matching", arXiv 2506.23589.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import (
    eight_gaussians,
    flow_task,
    follow,
    frechet_distance,
    rows,
    train,
)
from trainer.config.layout import Layout
from trainer.config.model.transition import MeanVelocityConfig
from trainer.data import SPLITS, DigitsConfig
from trainer.evaluation.quality import energy_distance
from trainer.flow import UNCONDITIONAL, Condition, sampler
from trainer.flow.sampler import Euler, Transition
from trainer.model.build import build_model
from trainer.model.flops import counting, forward_flops
from trainer.task import FlowTask

SEEDS = (0, 1, 2)
POINTS, SETS, RADIUS, STD = 2000, 5, 3.0, 0.25
PLANE: dict[str, dict[str, Any]] = {
    "DTM": {
        "kind": "transition_mlp",
        "hidden": 128,
        "num_layers": 2,
        "feed_forward_hidden": 128,
        "head": {"hidden": 128, "layers": 2},
    },
    "FM": {"kind": "mlp", "hidden": 128, "num_layers": 3, "feed_forward_hidden": 128},
}
DIGITS: dict[str, dict[str, Any]] = {"DTM": {"kind": "transition_dit"}, "FM": {"kind": "dit"}}
COUNTS, DIGIT_COUNTS = (1, 2, 4, 8, 32), (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
HEAD_STEPS, DIGIT_HEAD_STEPS = (4, 16), (4, 8, 16)

Rows = dict[str, dict[str, list[float]]]
Distance = Callable[[sampler.AnyConfig], dict[str, float]]


def note(found: Rows, name: str, **figures: float) -> None:
    """Adds figures of one seed to a row."""
    for figure, value in figures.items():
        found.setdefault(name, defaultdict(list))[figure.replace("_", " ")].append(value)


def untrained(task: FlowTask, seed: int) -> nn.Module:
    """The network of a task on one process, with its initial weights."""
    run = task.config.run.model_copy(update={"seed": seed})
    config = task.config.model_copy(update={"run": run})
    return build_model(config, Layout.single(config))


def transition(steps: int, head_steps: int) -> Transition:
    """Steps by drawn transitions, by Euler's method in the head."""
    return Transition(steps=steps, head=Euler(steps=head_steps))


def exact_velocity(x: Tensor, t: float) -> Tensor:
    """E[X_1 - X_0 | x_t = x], by the posterior over the eight blobs; float32 [B, 2]."""
    angle = torch.arange(8) * (math.pi / 4)
    centres = RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
    variance = (1 - t) ** 2 + (t * STD) ** 2
    offsets = x[:, None] - t * centres
    share = (-offsets.square().sum(2) / (2 * variance)).softmax(1)
    slope = (t * STD**2 - (1 - t)) / variance
    return (share[..., None] * (centres + slope * offsets)).sum(1)


def plane(found: Rows, seed: int, steps: int) -> None:
    """Trains both networks and measures what each draws, and the head's mean."""
    data = eight_gaussians(RADIUS, STD)

    def sets() -> list[tuple[Tensor, Tensor]]:
        generators = [torch.Generator().manual_seed(1000 * (number + 1) + seed) for number in range(SETS)]
        return [(torch.randn(POINTS, 2, generator=g), data(POINTS, g).x_1) for g in generators]

    fresh = torch.Generator().manual_seed(3000 + seed)
    floor = fmean(energy_distance(data(POINTS, fresh).x_1.numpy(), real.numpy()) for _, real in sets())
    note(found, "data floor", **{f"T = {count}": floor for count in COUNTS})
    for name, model in PLANE.items():
        task = flow_task({}, model=model, data={"kind": "toy", "name": "eight_gaussians"})
        network = train(task, data, untrained(task, seed), steps=steps, batch=256, lr=2e-3, seed=seed, ema=0.995)

        def distance(chosen: sampler.AnyConfig, task: FlowTask = task, network: nn.Module = network) -> float:
            drawn = [(follow(task, network, x_0, config=chosen, seed=seed).final, real) for x_0, real in sets()]
            return fmean(energy_distance(x.numpy(), real.numpy()) for x, real in drawn)

        row = "FM, Euler" if name == "FM" else "DTM, Euler on the mean velocity"
        note(found, row, **{f"T = {count}": distance(Euler(steps=count)) for count in COUNTS})
        note(found, row, rmse=velocity_error(network, seed))
        if name == "FM":
            continue
        for head_steps in HEAD_STEPS:
            row = f"DTM, {head_steps} head steps"
            note(found, row, **{f"T = {count}": distance(transition(count, head_steps)) for count in COUNTS})
        network.mean = MeanVelocityConfig(draws=256, steps=16)  # pyright: ignore[reportArgumentType]
        note(found, row, rmse=velocity_error(network, seed))


@torch.no_grad()
def velocity_error(network: nn.Module, seed: int) -> float:
    """Root mean square, over points at t = 0.5, of the difference from the exact velocity, whose own is 1.8."""
    generator = torch.Generator().manual_seed(5000 + seed)
    x_1 = eight_gaussians(RADIUS, STD)(POINTS, generator).x_1
    x = (x_1 + torch.randn(POINTS, 2, generator=generator)) / 2
    found = network(x, torch.full((POINTS,), 0.5), UNCONDITIONAL)
    return float((found - exact_velocity(x, 0.5)).square().mean().sqrt())


def operations(task: FlowTask, network: nn.Module, config: sampler.AnyConfig) -> int:
    """Of drawing one digit."""
    with counting() as counter:
        follow(
            task,
            network,
            torch.zeros(1, 1, 8, 8),
            condition=Condition(torch.zeros(1, dtype=torch.int64)),
            config=config,
        )
    return counter.get_total_flops()


def digits(found: Rows, seed: int, steps: int) -> None:
    """Trains both networks, measures what each draws, and finds the calls at which flow matching is as good."""
    data = DigitsConfig(held_out=360, size=8).open()
    learned, held_out = (data.get(data.indices(split)) for split in SPLITS)
    assert learned.labels is not None
    real, condition = learned.x_1.numpy(), Condition(learned.labels)
    x_0 = torch.randn(learned.x_1.shape, generator=torch.Generator().manual_seed(4000 + seed))

    def figures(drawn: Tensor) -> dict[str, float]:
        return {"FD": frechet_distance(drawn.numpy(), real), "energy": energy_distance(drawn.numpy(), real)}

    note(found, "360 held-out digits", **figures(held_out.x_1))
    arithmetic = forward_flops(flow_task(model=DIGITS["FM"], data={"kind": "digits"}).config) or 1
    for name, model in DIGITS.items():
        task = flow_task({}, model=model, data={"kind": "digits"})
        batches = rows(learned.x_1, learned.labels)
        network = train(task, batches, untrained(task, seed), steps=steps, batch=64, lr=2e-3, seed=seed, ema=0.99)
        if name == "DTM":
            first, second = (operations(task, network, transition(1, steps)) for steps in (1, 2))
            note(found, "head over trunk, a call", arithmetic=(second - first) / (2 * first - second))
            chosen: dict[str, sampler.AnyConfig] = {}
            chosen |= {f"DTM, 4 calls, {n} head steps": transition(4, n) for n in DIGIT_HEAD_STEPS}
            chosen["DTM, 2 calls, 16 head steps"] = transition(2, 16)
            chosen["DTM, 8 calls, 16 head steps"] = transition(8, 16)
            chosen["DTM, Euler on the mean velocity, 4 calls"] = Euler(steps=4)
        else:
            chosen = {f"FM, {count} calls": Euler(steps=count) for count in DIGIT_COUNTS}
        for row, config in chosen.items():
            drawn = follow(task, network, x_0, condition=condition, config=config, seed=seed).final
            calls = config.calls() or {}
            used = operations(task, network, config)
            note(found, row, calls=calls["network"], arithmetic=used / arithmetic, **figures(drawn))


def plane_bars(found: Rows) -> list[Bar]:
    """What is asked in the plane."""
    two = {name: fmean(found[name]["T = 2"]) for name in ("DTM, 16 head steps", "FM, Euler")}
    four = {name: fmean(found[name]["T = 4"]) for name in ("DTM, 16 head steps", "FM, Euler")}
    return [
        Bar("energy distance at T = 2: DTM over FM", two["DTM, 16 head steps"] / two["FM, Euler"], 0.1),
        Bar("energy distance at T = 4: DTM over FM", four["DTM, 16 head steps"] / four["FM, Euler"], 0.5),
        Bar("head's mean over 256 draws, rmse at t = 0.5", fmean(found["DTM, 16 head steps"]["rmse"]), 0.2),
    ]


def digit_bars(found: Rows) -> list[Bar]:
    """What is asked of the digits."""

    def ratio(figure: str) -> float:
        return fmean(found["DTM, 4 calls, 16 head steps"][figure]) / fmean(found["FM, 4 calls"][figure])

    return [
        Bar("head over trunk, multiply-adds of a call", found["head over trunk, a call"]["arithmetic"][0], 0.1),
        Bar("Fréchet distance at 4 calls: DTM over FM", ratio("FD"), 1.0),
        Bar("energy distance at 4 calls: DTM over FM", ratio("energy"), 1.0),
    ]


def equal_quality(found: Rows) -> str:
    """At how many calls, and at how much arithmetic, flow matching is as good as transitions in four calls."""
    lines = []
    for head_steps in DIGIT_HEAD_STEPS:
        own = found[f"DTM, 4 calls, {head_steps} head steps"]
        for figure in ("FD", "energy"):
            reached = [n for n in DIGIT_COUNTS if fmean(found[f"FM, {n} calls"][figure]) <= fmean(own[figure])]
            calls = f"{reached[0]} calls" if reached else f"no count up to {DIGIT_COUNTS[-1]}"
            lines.append(
                f"        {figure} of DTM with 4 calls and {head_steps} head steps a call, "
                f"{own['arithmetic'][0]:.2f} calls' arithmetic: FM reaches it with {calls}"
            )
    return "\n".join(lines)


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("plane", "digits", "both"), default="both")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="default: 0 1 2")
    parser.add_argument("--steps", type=int, help="of each training; default: 2,000 in the plane, 2,400 for digits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    if options.part != "digits":
        found: Rows = {}
        for seed in options.seeds:
            plane(found, seed, options.steps or 2000)
        failed += show("N(0, I) to eight Gaussians, energy distance by calls of the trunk", found, plane_bars(found))
    if options.part != "plane":
        found = {}
        for seed in options.seeds:
            digits(found, seed, options.steps or 2400)
        failed += show("digits by class, 64 pixels", found, digit_bars(found))
        print(equal_quality(found))
    return min(failed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
