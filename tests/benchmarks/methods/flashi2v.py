"""Clips from their first frame, read in three ways: python -m tests.benchmarks.methods.flashi2v

Clips are windows that move over digits of the classes 0 to 6, or over Fashion-MNIST (--sets fashion), and those of the
classes 7 to 9 are out of the domain. One diffusion transformer reads the first frame beside the state (concat), has
what two convolutions make of it taken from the state (shift), or that and its fine details (shift_fourier): equal steps
and width. "error" is that of the velocity on 1,000 held-out clips at random times, the same for all; "motion" the mean
difference of neighbouring frames of drawn clips over that of real ones; "shift" the root mean square of what is taken.
In the domain concatenation has to be ahead: for z = c + w of normals with deviations 1 and 0.5, the least mean error of
the velocity is printed for each way, by closed form. The paper's claim is about clips out of the domain.

Source: FlashI2V, arXiv 2509.25187.
"""

import time
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import flow_task, train
from trainer.config.rules.plan import plan_layout
from trainer.data import Batch, build
from trainer.evaluation.readings import motion
from trainer.flow import Condition
from trainer.flow.coupling import Pairs
from trainer.flow.sampler import Euler
from trainer.model.build import build_model
from trainer.model.conditioning import FirstFrameReader
from trainer.sampling.flow import keys_of
from trainer.task import FlowTask

FASHION = Path("/usr/share/datasets/fashion-mnist")
READINGS = ("concat", "shift", "shift_fourier")
STEPS, BATCH, LR, JUDGED, DRAWN = 1500, 64, 1e-3, 1000, 250
INSIDE, OUTSIDE = tuple(range(7)), (7, 8, 9)


def sections(name: str, path: Path, classes: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The data and the model of a set."""
    model = {"kind": "dit", "hidden": 64, "num_layers": 3, "num_heads": 4, "label_dropout": 0.0}
    if name == "digits":
        pictures, window, patch = {"kind": "digits", "held_out": 360}, 12, 2
    else:
        pictures, window, patch = {"kind": "idx", "path": str(path), "num_examples": 6000, "held_out": 1000}, 28, 4
    moving = {"kind": "moving_pictures", "pictures": pictures, "pad": 4, "window": window, "classes": classes}
    return moving, {**model, "patch_size": patch}


def task_of(name: str, path: Path, reading: str, seed: int, classes: tuple[int, ...] = INSIDE) -> FlowTask:
    """Flow matching of clips, with one reading of their first frame and without their classes."""
    data, model = sections(name, path, classes)
    return flow_task(
        {"context": {"kind": "first_frame", "reading": reading}},
        data=data,
        model=model,
        run={"dir": "unused", "seed": seed},
        sample={"kind": "clips"},
    )


def without_classes(batch: Batch, null: int) -> Batch:
    """Clips whose network hears of no class."""
    assert batch.labels is not None
    return Batch(batch.x_1, torch.full_like(batch.labels, null), batch.ids)


@torch.no_grad()
def judged(task: FlowTask, network: nn.Module, seed: int) -> tuple[float, float]:
    """The mean squared error of the velocity on held-out clips, and the motion of drawn ones over that of real ones."""
    data = build(task.config.data)
    ids = data.indices("held_out")
    generator = torch.Generator().manual_seed(seed)
    chosen = ids[torch.randperm(len(ids), generator=generator)[:JUDGED]]
    batch = without_classes(data.get(chosen), task.parts.null_label)
    assert task.parts.context is not None
    context = task.parts.context.for_drawing().draw(batch.x_1, task.parts.space, generator=generator).context
    condition = Condition(batch.labels, context)
    x_0 = torch.randn(batch.x_1.shape, generator=generator)
    t = torch.rand(len(ids[:JUDGED]), generator=generator)[: len(chosen)]
    sample = task.parts.path.sample(Pairs(x_0, batch.x_1), t, generator=generator)
    errors = []
    for rows in torch.arange(len(chosen)).split(250):
        velocity = network(sample.x_t[rows], t[rows], condition.rows(rows))
        errors.append((velocity - (batch.x_1 - x_0)[rows]).square().flatten(1).mean(1))
    some = condition.rows(torch.arange(DRAWN))
    field = task.parts.field(network, some, 1.0)
    starts = task.parts.starts(some, torch.arange(DRAWN), seed=seed)
    sampler = Euler(steps=20)
    ends = sampler.build(task.parts.path).sample(
        field, starts, sampler.grid(), keys=keys_of(torch.arange(DRAWN), "", seed=seed)
    )
    return float(torch.cat(errors).mean()), motion(ends.final, 1) / motion(batch.x_1[:DRAWN], 1)


def shift_of(network: nn.Module, clips: Tensor) -> float:
    """Root mean square of what is taken from each frame."""
    reader = getattr(network, "read_context", None)
    if not isinstance(reader, FirstFrameReader):
        return 0.0
    with torch.no_grad():
        return float(reader.shift(clips[:, :1]).square().mean().sqrt())


def run(name: str, path: Path, reading: str, seed: int, steps: int) -> dict[str, float]:
    """Trains and measures one reading."""
    task = task_of(name, path, reading, seed)
    data, null = build(task.config.data), task.parts.null_label
    ids = data.indices("train")

    def some(num: int, generator: torch.Generator) -> Batch:
        return without_classes(data.get(ids[torch.randint(len(ids), (num,), generator=generator)]), null)

    begun = build_model(task.config, plan_layout(task.config, 1))
    network = train(task, some, begun, steps=steps, batch=BATCH, lr=LR, seed=seed, ema=0.99, clip_norm=1.0)
    error, moved = judged(task, network, seed)
    outside, moved_outside = judged(task_of(name, path, reading, seed, OUTSIDE), network, seed)
    return {
        "error": error,
        "error, outside": outside,
        "ratio": outside / error,
        "motion": moved,
        "motion, outside": moved_outside,
        "shift": shift_of(network, some(250, torch.Generator().manual_seed(seed)).x_1),
    }


def least_errors(deviation: float = 0.5) -> dict[str, float]:
    """Least mean error of the velocity of z = c + w, by closed form: c read, taken from the state, or unknown."""
    t, s = (np.arange(20_000) + 0.5) / 20_000, deviation**2

    def error(explained: Any, variance: Any, total: float) -> float:
        return float((total - explained**2 / variance).mean())

    def shifted(k: float) -> float:
        return error((t - k) + t * s - (1 - t), (t - k) ** 2 + t**2 * s + (1 - t) ** 2, 2 + s)

    concat = error(t * s - (1 - t), t**2 * s + (1 - t) ** 2, 1 + s)
    return {"concat": concat, "best shift": min(map(shifted, np.linspace(0, 4, 401))), "without": shifted(0.0)}


def main() -> int:
    """Trains, measures and prints; 0 if every bar is met, otherwise 1."""
    parser = seeds_parser(__doc__)
    parser.add_argument("--sets", nargs="+", choices=("digits", "fashion"), default=["digits"])
    parser.add_argument("--path", type=Path, default=FASHION, help="folder with the files of Fashion-MNIST")
    parser.add_argument("--steps", type=int, default=STEPS, help="of training")
    request = parser.parse_args()
    torch.set_num_threads(1)
    print(", ".join(f"{name} {value:.4f}" for name, value in least_errors().items()), "(closed form, in the domain)")
    code = 0
    for name in request.sets:
        found: dict[str, list[dict[str, float]]] = {}
        for reading in READINGS:
            begun = time.perf_counter()
            found[reading] = [run(name, request.path, reading, seed, request.steps) for seed in request.seeds]
            print(f"{name}, {reading}: {time.perf_counter() - begun:.0f} s", flush=True)
        table = {key: {figure: [one[figure] for one in ones] for figure in ones[0]} for key, ones in found.items()}
        bars = []
        for reading in READINGS:
            moved = fmean(table[reading]["motion"])
            bars += [
                Bar(f"{reading}: motion", moved, 0.8, at_least=True),
                Bar(f"{reading}: motion", moved, 1.2),
            ]
        bars.append(Bar("shift_fourier: shift", fmean(table["shift_fourier"]["shift"]), 10.0))
        code |= show(f"clips of {name}, {request.steps:,} steps", table, bars)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
