"""Routed adapters of one flow over digits in several positions: python -m tests.benchmarks.methods.mhr_digits

A perceptron of 3 x 256 learns upright 8 x 8 digits, centred and of deviation 1; it is frozen then. The tasks are the
turns and reflections of the square: six that adapters of rank 4 learn together, and two new ones, of which they see 64
examples. FD is the Fréchet distance on the 64 pixels between 1,000 samples of a task, Euler with 20 steps, and its
digits; the mean over tasks is told. The floor is that of two halves of the digits; the network without adapters stands
beside it. There is no bar: natural tasks may gain nothing by heads.

Source: Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", arXiv 2211.03831.
"""

import copy
import sys
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor, nn

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import show
from tests.benchmarks.methods.mhr import (
    MHR,
    OWN,
    POLY,
    SCRATCH,
    SHARED,
    Figures,
    Perceptron,
    decayed,
    frozen,
    learned,
    on_new_tasks,
    optimiser,
    told,
    with_mean_modules,
)
from tests.benchmarks.methods.plain_loop import Data, flow_task, follow, frechet_distance
from trainer.data import Batch, DigitsConfig, build
from trainer.flow import Condition
from trainer.task import FlowTask

TASKS, NEW_TASKS, SHOTS = 6, 2, 64
RANK, MODULES, HEADS = 4, 4, 4
WIDTHS = (128, 256, 256, 256, 64)
STEPS, FEW_STEPS, BATCH, LR, FEW_LR, SAMPLES = 800, 200, 240, 2e-3, 1e-3, 1000
NONE = "no adapters"


class FlowNetwork(Perceptron):
    """A perceptron over the state and as many copies of the time."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Predicts [B, 64] at states [B, 64] and times [B]."""
        self.rows.now = condition.task
        return self.through(torch.cat([x_t, t[:, None].expand_as(x_t)], dim=1))


def positions() -> Tensor:
    """The digits in each turn and reflection, [8, 1797, 64]; the upright ones first."""
    pixels = build(DigitsConfig()).get(torch.arange(1797)).x_1[:, 0]
    turned = [pixels.rot90(turns, (1, 2)) for turns in range(4)]
    every = torch.stack([*turned, *(one.flip(2) for one in turned)])
    every = every[[0, 1, 2, 4, 5, 7, 3, 6]].flatten(2)  # new are a turn and a reflection
    centred = every - every.mean(1, keepdim=True)
    return centred / centred.square().mean().sqrt()


def of_tasks(digits: Tensor) -> Data:
    """Batches that have every task [T, M, 64] as often."""

    def draw(num: int, generator: torch.Generator) -> Batch:
        tasks = torch.arange(num) % len(digits)
        ids = torch.randint(digits.shape[1], (num,), generator=generator)
        return Batch(digits[tasks, ids], None, ids, sources=tasks)

    return draw


def task_of(num: int) -> FlowTask:
    """Flow matching that hands the network one of so many tasks."""
    return flow_task(model={"kind": "mlp", "adapters": {"kind": "routed", "base": "unused", "tasks": num}})


def train(network: nn.Module, digits: Tensor, *, steps: int, lr: float, seed: int) -> nn.Module:
    """Trains in place by Adam, the routing at its own rate, down half a cosine."""
    task, data, generator = task_of(len(digits)), of_tasks(digits), torch.Generator().manual_seed(seed)
    optimizer = optimiser(network, lr)
    schedule = decayed(optimizer, steps)
    for _ in range(steps):
        (drawn,) = task.draw([data(BATCH, generator)], [generator])
        loss = task.loss(network, drawn).mean(None)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def distance(network: nn.Module, digits: Tensor, seed: int) -> list[float]:
    """The Fréchet distance of samples of each task [T, M, 64] to its digits."""
    start = torch.randn(SAMPLES, digits.shape[-1], generator=torch.Generator().manual_seed(1000 + seed))
    found = []
    for task, real in enumerate(digits):
        condition = Condition(task=torch.full((SAMPLES,), task))
        drawn = follow(task_of(len(digits)), network, start, 20, condition=condition).final
        found.append(frechet_distance(drawn.numpy(), real.numpy()))
    return found


def run(seed: int) -> dict[str, Figures]:
    """The figures of all arms."""
    torch.set_num_threads(1)
    every = positions()
    old, new = every[:TASKS], every[TASKS:]
    shots = new[:, torch.randperm(new.shape[1], generator=torch.Generator().manual_seed(500 + seed))[:SHOTS]]
    base = FlowNetwork(torch.Generator().manual_seed(seed), WIDTHS)
    train(base, every[:1], steps=2 * STEPS, lr=LR, seed=seed)
    base.requires_grad_(False)

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(300 + seed)

    def fresh(tasks: int, modules: int, heads: int, rank: int) -> FlowNetwork:
        return base.adapted(tasks, modules, heads, rank, drawn())

    def few(start: FlowNetwork) -> Figures:
        trained = learned(start) / NEW_TASKS
        network = train(copy.deepcopy(start), shots, steps=FEW_STEPS, lr=FEW_LR, seed=seed)
        return {f"FD, new, {SHOTS} shots": fmean(distance(network, new, seed)), "trained a new task": trained}

    arms = {
        SHARED: fresh(1, 1, 1, MODULES * RANK),
        OWN: fresh(TASKS, TASKS, 1, max(1, round(MODULES * RANK / TASKS))).alone(),
        POLY: fresh(TASKS, MODULES, 1, RANK),
        MHR: fresh(TASKS, MODULES, HEADS, RANK),
    }
    one, other = every[0][torch.randperm(every.shape[1], generator=drawn())].chunk(2)
    halves = frechet_distance(one.numpy(), other.numpy())
    rows: dict[str, Figures] = {
        "halves of the digits": {"FD, tasks": halves, f"FD, new, {SHOTS} shots": halves},
        NONE: {
            "FD, tasks": fmean(distance(base, old, seed)),
            f"FD, new, {SHOTS} shots": fmean(distance(base, new, seed)),
        },
    }
    for name, student in arms.items():
        parameters = learned(student)
        train(student, old, steps=STEPS, lr=LR, seed=seed)
        found = distance(student, old, seed)
        rows[name] = {"FD, tasks": fmean(found), "worst task": max(found), "parameters": parameters}
        print(f"seed {seed}, {told({name: rows[name]})}", file=sys.stderr, flush=True)
    rows[SCRATCH] = few(fresh(NEW_TASKS, NEW_TASKS, 1, RANK).alone())
    for name in (POLY, MHR):
        rows[f"{name}-z"] = few(frozen(on_new_tasks(arms[name], NEW_TASKS, drawn()), ("A_", "B_")))
        rows[f"{name}-mu"] = few(with_mean_modules(arms[name], NEW_TASKS, drawn()))
    rows[f"{MHR}, all, new tasks together"] = few(on_new_tasks(arms[MHR], NEW_TASKS, drawn()))
    print(f"seed {seed}, {told(rows)}", file=sys.stderr, flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, measures and prints; there is no bar.

    Returns:
        0.
    """
    options = by_seed.parser(__doc__).parse_args(arguments)
    of_seeds = by_seed.for_seeds(options, run)
    table = {
        arm: {figure: [rows[arm][figure] for rows in of_seeds] for figure in figures}
        for arm, figures in of_seeds[0].items()
    }
    return show(f"digits in {TASKS} positions, then in {NEW_TASKS} new ones, rank {RANK}", table, [])


if __name__ == "__main__":
    raise SystemExit(main())
