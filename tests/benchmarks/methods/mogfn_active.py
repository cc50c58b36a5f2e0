"""Active learning with policies that build objects: python -m tests.benchmarks.methods.mogfn_active

On a grid of 32 x 32 cells (branin and currin, exponent 16) each cell costs one call of the objectives when it is
measured, and calls are all that is counted: a first batch of 12 cells of even choices, then four rounds of 12. In each
round a Gaussian process is fitted to all measured cells, a fresh policy learns its upper confidence bound (0.5 standard
deviations) in 300 updates of 64 objects, and the first 12 new cells that the policy builds are measured. The figures
are those of all measured cells together, 60 calls:

* hypervolume: over that of all 1,024 cells; R2 over the 11 preferences (0, 1), (0.1, 0.9) .. (1, 0), less is better;
* best reward: mean over these preferences of the best weighted sum; of all cells it is the last line.

Beside it stand, at equal calls: even choices, the floor, whose walks seldom go far; cells drawn evenly of all; one
policy that learned once, of the surrogate of the first 12 cells with 0.5 or 2 deviations, and builds all 48 others;
greedy mutation, which steps from the best measured cell of a drawn preference to a new one, one or two cells away; and
the same surrogate without a policy: of all cells, those whose bound is largest by drawn preferences, which needs them
listed.

Source: Jain et al., "Multi-Objective GFlowNets", 2023, section 4.3.
"""

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.mogfn import task_of, trained
from trainer.config.task.environment import HyperGridConfig, MeasuredFile, MeasureRequest
from trainer.evaluation.pareto import hypervolume, r2
from trainer.experiment.built.measuring import new_objects
from trainer.experiment.built.objects import TrainedPolicy
from trainer.task.environment import HyperGrid
from trainer.task.rewards import Surrogate, lattice

ROUNDS, BATCH, UPDATES = 4, 12, 300
DEVIATIONS, HIGH = 0.5, 2.0
CONFIG = HyperGridConfig(side=32)
GRID = HyperGrid(CONFIG)
CELLS = GRID.cells()
PREFERENCES = lattice(2, 10)
Cell = tuple[int, ...]
Rows = dict[str, dict[str, float]]


def first_batch(seed: int) -> list[Cell]:
    """Cells of even choices, as a first stage of kind measure draws them."""
    request = MeasureRequest(environment=CONFIG, num=BATCH, seed=seed)
    return rows(new_objects(request, GRID, None, ()))


def measured(cells: list[Cell]) -> MeasuredFile:
    """Asks the objectives."""
    rewards = GRID.rewards(torch.tensor(cells)).tolist()
    return MeasuredFile(
        environment=CONFIG,
        objectives=GRID.objectives,
        objects=tuple(cells),
        rewards=tuple(map(tuple, rewards)),
        rounds=(len(cells),),
    )


def of_policy(cells: list[Cell], num: int, seed: int, deviations: float = DEVIATIONS) -> tuple[list[Cell], float]:
    """New cells of a policy that learned the surrogate of others, and calls of its network, in thousands."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        measured(cells).write(file)
        surrogate = {"kind": "surrogate", "measured": str(file), "deviations": deviations}
        task = task_of(seed, environment=CONFIG.model_dump(), exponent=16.0, log_reward=surrogate)
        network = trained(task, seed, UPDATES).eval()
    request = MeasureRequest(environment=CONFIG, num=num, seed=seed)
    policy = TrainedPolicy(task.config, task, network, "")
    return rows(new_objects(request, GRID, policy, cells)), task.state()["network_calls"] / 1000


def by_bound(cells: list[Cell], num: int, seed: int) -> list[Cell]:
    """Cells of all whose upper confidence bound is largest by drawn preferences."""
    bounds = Surrogate(GRID, measured(cells), DEVIATIONS).rewards(CELLS)
    generator, found = np.random.default_rng(seed), list(cells)
    for weight in generator.uniform(size=num):
        order = (bounds @ torch.tensor([weight, 1 - weight])).argsort(descending=True)
        found.append(next(cell for cell in rows(CELLS[order]) if cell not in found))
    return found[len(cells) :]


def by_mutation(cells: list[Cell], num: int, seed: int) -> list[Cell]:
    """Neighbours of the measured cells that are best by drawn preferences, of all that is known by then."""
    generator, found = np.random.default_rng(seed), list(cells)
    steps = [step for step in itertools.product(range(-2, 3), repeat=2) if 0 < sum(map(abs, step)) <= 2]
    while len(found) < len(cells) + num:
        weight = generator.uniform()
        values = GRID.rewards(torch.tensor(found)) @ torch.tensor([weight, 1 - weight], dtype=torch.float64)
        for number in values.argsort(descending=True).tolist():
            moved = [tuple(a + b for a, b in zip(found[number], step, strict=True)) for step in steps]
            new = [cell for cell in moved if min(cell) >= 0 and max(cell) < CONFIG.side and cell not in found]
            if new:
                found.append(new[generator.integers(len(new))])
                break
    return found[len(cells) :]


def by_chance(cells: list[Cell], num: int, seed: int) -> list[Cell]:
    """Cells drawn evenly of all that are left."""
    order = np.random.default_rng(seed).permutation(len(CELLS))
    return [cell for cell in rows(CELLS[order]) if cell not in cells][:num]


def by_even_choices(cells: list[Cell], num: int, seed: int) -> list[Cell]:
    """Cells that an untrained policy builds."""
    return rows(new_objects(MeasureRequest(environment=CONFIG, num=num, seed=1000 + seed), GRID, None, cells))


def rows(cells: Tensor) -> list[Cell]:
    """Cells as tuples."""
    return list(map(tuple, cells.tolist()))


def figures(cells: list[Cell]) -> dict[str, float]:
    """Of measured cells."""
    points = GRID.rewards(torch.tensor(cells)).numpy()
    whole = GRID.rewards(CELLS).numpy()
    weights = PREFERENCES.numpy()
    return {
        "hypervolume": hypervolume(points) / hypervolume(whole),
        "R2": r2(points, weights),
        "best reward": float((points @ weights.T).max(axis=0).mean()),
        "reward calls": len(cells),
    }


def run(seed: int) -> Rows:
    """All rows of one seed."""
    torch.set_num_threads(1)
    begun, calls = first_batch(seed), 0.0
    cells = list(begun)
    table: Rows = {}
    for number in range(1, ROUNDS + 1):
        new, spent = of_policy(cells, BATCH, ROUNDS * seed + number)
        cells += new
        calls += spent
        table[f"policy, round {number}"] = {**figures(cells), "network calls, k": calls}
    for deviations in (DEVIATIONS, HIGH):
        once, spent = of_policy(begun, ROUNDS * BATCH, ROUNDS * seed + 1, deviations)
        table[f"one policy, {deviations:g}"] = {**figures(begun + once), "network calls, k": spent}
    rivals: dict[str, Callable[[list[Cell], int, int], list[Cell]]] = {
        "even choices": by_even_choices,
        "cells by chance": by_chance,
        "greedy mutation": by_mutation,
    }
    for name, choose in rivals.items():
        table[name] = figures(begun + choose(begun, ROUNDS * BATCH, seed))
    listed = list(begun)
    for number in range(1, ROUNDS + 1):
        listed += by_bound(listed, BATCH, ROUNDS * seed + number)
    table["bound of all cells"] = figures(listed)
    table["first batch"] = figures(begun)
    table["all cells"] = figures(rows(CELLS))
    print(f"seed {seed} is done", file=sys.stderr, flush=True)
    return table


def main() -> int:
    """Measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    options = by_seed.parser(__doc__).parse_args()
    of_seeds = by_seed.for_seeds(options, run)
    gathered = {
        row: {figure: [table[row][figure] for table in of_seeds] for figure in values}
        for row, values in of_seeds[0].items()
    }

    def mean(row: str, figure: str) -> float:
        return fmean(gathered[row][figure])

    last, once = f"policy, round {ROUNDS}", [f"one policy, {deviations:g}" for deviations in (DEVIATIONS, HIGH)]
    bars = [
        Bar(f"{figure}: above {rival}", mean(last, figure), mean(rival, figure), at_least=True)
        for figure in ("hypervolume", "best reward")
        for rival in ("even choices", "cells by chance", *once, "greedy mutation")
    ]
    return show(f"grid of 32 x 32, {BATCH * (ROUNDS + 1)} calls", gathered, bars)


if __name__ == "__main__":
    raise SystemExit(main())
