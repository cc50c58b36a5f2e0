"""Searched step sizes and straightening on them: python -m tests.benchmarks.methods.boss

Three fields: the exact velocity from N(0, I) to eight Gaussians (radius 3, deviation 0.25), a perceptron of 3 x 128
that has learned it, and one of 3 x 256 that has learned the 64 pixels of the 8 x 8 digits, in 4,000 steps of 256, and
reads four octaves of waves of the time. A fourth one reads the time as a number: its velocity bends less near the data.
Grids of 2, 4, 6 and 8 steps of Euler's method are searched with 300 noises on 100 nodes, and measured with 2,000 fresh
noises. Each figure but the energy distance is over that of equal steps:

* chord cost: the sum of the local errors of the steps, which the dynamic programme minimises;
* endpoint error: the mean squared distance to the end of 100 equal steps from the same noises, which the descent
  minimises. Beside both searches stand the times of EDM (rho = 7) and Heun's method at as many evaluations;
* energy distance to the data, of which "data floor" is that of fresh data, and "100 steps" that of the fine solution.

Then the first two networks are straightened at 4 steps: 1,000 steps of Adam on the chords of 5,000 trajectories, by the
parts of a run. The error is over that of the teacher itself on the same grid.

Source: Nguyen, Nguyen and Nguyen, "Bellman Optimal Step-size Straightening of Flow-Matching Models", arXiv 2312.16414;
the times: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", arXiv 2206.00364,
equation 5.
"""

import copy
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.immiscible import digits
from tests.benchmarks.methods.plain_loop import Data, PlainNetwork, eight_gaussians, flow_task, rows, train
from trainer.evaluation.quality import energy_distance
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.sampler import Euler, Field, Heun, Sampler
from trainer.flow.target import Quantity
from trainer.sampling.fine_grid import FineSolution, Grid, fine_solution, times_of, uniform_grid
from trainer.sampling.step_search import chord_cost, chord_grid, cost_matrix, endpoint_grid

COUNTS, NODES = (2, 4, 6, 8), 100
NUM, FRESH, TRAJECTORIES, STRAIGHTENED, OCTAVES = 300, 2000, 5000, 4, 4
EXACT, POINTS, DIGITS = "eight Gaussians, exact", "eight Gaussians, learned", "digits, learned"
SMOOTH = "digits, learned, time as a number"
UNIFORM, CHORD, ENDPOINT, EDM, HEUN = "equal", "chord", "endpoint", "EDM", "Heun"
RADIUS, DEVIATION = 3.0, 0.25
CHORDS: dict[str, Any] = {"coupling": {"kind": "paired"}, "time": {"kind": "grid", "steps": 1}}
Figures = dict[str, float]
Tables = dict[str, dict[str, dict[str, Figures]]]
"""Figures by subject, by title of a table and by row."""


class ExactVelocity(Field):
    """E[x_1 - x_0 | x_t] of independent pairs of N(0, I) and the eight Gaussians, in closed form."""

    def __init__(self) -> None:
        angle = torch.arange(8) * (math.pi / 4)
        self.centres = RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        """See `Field`."""
        t = t[:, None]
        variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
        away = x[:, None] - t[..., None] * self.centres
        weight = (-away.square().sum(-1) / (2 * variance)).softmax(dim=1)
        slope = (t * DEVIATION**2 - (1 - t)) / variance
        return (weight[..., None] * (self.centres + slope[..., None] * away)).sum(dim=1)

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        """See `Field.estimate`; of the velocity alone."""
        return tuple(self(x, t) for _ in quantities)


class WithWaves(nn.Module):
    """A perceptron that reads sine and cosine of the time beside it, which lets its velocity change quickly.

    Args:
        seed: of the initial weights.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.network = PlainNetwork(64, hidden=256, layers=3, seed=seed, num_context_values=2 * OCTAVES)
        self.frequencies = math.pi * 2.0 ** torch.arange(OCTAVES)

    def forward(self, x_t: Tensor, t: Tensor, _condition: Condition) -> Tensor:
        """Predicts [B, 64] at states [B, 64] and times [B]."""
        angle = t[:, None] * self.frequencies
        return self.network(x_t, t, Condition(context=torch.cat([angle.sin(), angle.cos()], dim=1)))


@dataclass(frozen=True)
class Subject:
    """A field whose steps are searched.

    Attributes:
        field: it.
        num_values: of a state.
        data: examples of what it leads to.
        floor: other such examples.
        network: gives the field and is straightened; None: nothing is.
    """

    field: Field
    num_values: int
    data: Tensor
    floor: Tensor
    network: nn.Module | None = None

    def noises(self, num: int, seed: int) -> Tensor:
        """Draws starts."""
        return torch.randn(num, self.num_values, generator=torch.Generator().manual_seed(seed))


def field_of(network: nn.Module) -> Field:
    """The field of a network that predicts velocities along straight paths."""
    return flow_task().parts.field(network, UNCONDITIONAL, 1.0)


def subjects(seed: int) -> dict[str, Subject]:
    """The three fields, of which two are learned first."""
    generator = torch.Generator().manual_seed(900 + seed)
    draw = eight_gaussians(RADIUS, DEVIATION)
    points, others = draw(FRESH, generator).x_1, draw(FRESH, generator).x_1
    plane = PlainNetwork(2, hidden=128, layers=3, seed=seed)
    train(flow_task(), draw, plane, steps=1500, batch=256, lr=2e-3, seed=seed)
    pixels = digits(centred=False)
    half, other = pixels[torch.randperm(len(pixels), generator=generator)].chunk(2)
    waves, smooth = WithWaves(seed), PlainNetwork(64, hidden=256, layers=3, seed=seed)
    for network in (waves, smooth):
        train(flow_task(), rows(pixels), network, steps=4000, batch=256, lr=1e-3, seed=seed)
    return {
        EXACT: Subject(ExactVelocity(), 2, points, others),
        POINTS: Subject(field_of(plane.eval()), 2, points, others, plane),
        DIGITS: Subject(field_of(waves.eval()), 64, half, other, waves),
        SMOOTH: Subject(field_of(smooth.eval()), 64, half, other),
    }


def edm_times(steps: int) -> Tensor:
    """The times at which the straight path has the noise levels of EDM from 80 to 0.002, ends set to 0 and 1."""
    share = torch.linspace(0, 1, steps) if steps > 1 else torch.zeros(1)
    level = (80 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times = torch.cat([1 / (1 + level), torch.ones(1)])
    times[0] = 0.0
    return times


@torch.no_grad()
def end_of(field: Field, x_0: Tensor, times: Tensor, sampler: Sampler | None = None) -> Tensor:
    """Where steps of a sampler, Euler's method by default, end."""
    return (sampler or Euler()).sample(field, x_0, times).final


def error(end: Tensor, fine: FineSolution) -> float:
    """Mean squared distance to the end of the fine solution."""
    return float((end - fine.states[-1]).square().sum(dim=1).mean())


def searched(subject: Subject, seed: int) -> dict[int, dict[str, Grid]]:
    """The grids by number of steps and by name."""
    solutions = [fine_solution(subject.field, subject.noises(NUM, 100 + seed), nodes=NODES)]
    cost = cost_matrix(solutions)
    found = {}
    for count in COUNTS:
        uniform, chord = uniform_grid(NODES, count), chord_grid(cost, count)
        endpoint = endpoint_grid(solutions, (uniform, chord)).grid
        found[count] = {UNIFORM: uniform, CHORD: chord, ENDPOINT: endpoint}
    return found


def on_fresh_noises(
    subject: Subject, grids: Mapping[int, Mapping[str, Grid]], seed: int
) -> tuple[dict[str, Figures], dict[str, Figures]]:
    """Errors over those of equal steps, and energy distances, of each way to step."""
    fresh = fine_solution(subject.field, subject.noises(FRESH, 200 + seed), nodes=NODES)
    cost, x_0 = cost_matrix([fresh]), fresh.states[0]
    ratios: dict[str, Figures] = {name: {} for name in (CHORD, ENDPOINT, EDM, HEUN)}
    energies: dict[str, Figures] = {name: {} for name in (UNIFORM, *ratios)}
    for count, own in grids.items():
        ends = {name: end_of(subject.field, x_0, torch.tensor(times_of(grid, NODES))) for name, grid in own.items()}
        ends[EDM] = end_of(subject.field, x_0, edm_times(count))
        ends[HEUN] = end_of(subject.field, x_0, torch.linspace(0, 1, count // 2 + 1), Heun())
        for name, end in ends.items():
            energies[name][f"energy, {count}"] = energy_distance(end.numpy(), subject.data.numpy())
            if name != UNIFORM:
                ratios[name][f"error, {count}"] = error(end, fresh) / error(ends[UNIFORM], fresh)
        for name in (CHORD, ENDPOINT):
            ratios[name][f"cost, {count}"] = chord_cost(cost, own[name]) / chord_cost(cost, own[UNIFORM])
    fine = energy_distance(fresh.states[-1].numpy(), subject.data.numpy())
    floor = energy_distance(subject.floor.numpy(), subject.data.numpy())
    energies["100 steps"] = {f"energy, {count}": fine for count in COUNTS}
    energies["data floor"] = {f"energy, {count}": floor for count in COUNTS}
    return ratios, energies


def chords(x: Tensor, times: Tensor) -> Data:
    """Pairs of states [T, N, D] at neighbouring times [T]."""
    interval = torch.stack([times[:-1], times[1:]], dim=1).repeat_interleave(x.shape[1], dim=0)
    return rows(x[1:].flatten(0, 1), x_0=x[:-1].flatten(0, 1), interval=interval)


def straightened(subject: Subject, grids: Mapping[str, Grid], seed: int) -> dict[str, Figures]:
    """Students of each grid of 4 steps beside their teacher."""
    assert subject.network is not None
    fresh = fine_solution(subject.field, subject.noises(FRESH, 200 + seed), nodes=NODES)
    kept = sorted({node for grid in grids.values() for node in grid})
    starts = subject.noises(TRAJECTORIES, 300 + seed).split(500)
    x = torch.cat([fine_solution(subject.field, own, nodes=NODES).states[kept] for own in starts], dim=1)
    found = {}
    for name, grid in grids.items():
        times, start = torch.tensor(times_of(grid, NODES)), fresh.states[0]
        student = copy.deepcopy(subject.network)
        data = chords(x[[kept.index(node) for node in grid]], times)
        train(flow_task(CHORDS), data, student, steps=1000, batch=256, lr=5e-4, seed=seed)
        before, after = end_of(subject.field, start, times), end_of(field_of(student), start, times)
        found[name] = {
            "error before": error(before, fresh),
            "error after": error(after, fresh),
            "after / before": error(after, fresh) / error(before, fresh),
            "energy before": energy_distance(before.numpy(), subject.data.numpy()),
            "energy after": energy_distance(after.numpy(), subject.data.numpy()),
        }
    return found


def run(seed: int) -> Tables:
    """All tables of one seed, by subject and by title."""
    torch.set_num_threads(1)
    tables: Tables = {}
    for name, subject in subjects(seed).items():
        grids = searched(subject, seed)
        ratios, energies = on_fresh_noises(subject, grids, seed)
        tables[name] = {"over equal steps": ratios, "energy distance to the data": energies}
        if subject.network is not None:
            tables[name]["straightened at 4 steps"] = straightened(subject, grids[STRAIGHTENED], seed)
        told = ", ".join(" ".join(f"{node}" for node in grids[STRAIGHTENED][way]) for way in (CHORD, ENDPOINT))
        print(f"seed {seed}, {name}: nodes of chord and endpoint at 4 steps: {told}", file=sys.stderr, flush=True)
    return tables


def gathered(of_seeds: Sequence[Tables], name: str, title: str) -> dict[str, dict[str, list[float]]]:
    """One table with the figures of all seeds."""
    return {
        way: {figure: [tables[name][title][way][figure] for tables in of_seeds] for figure in figures}
        for way, figures in of_seeds[0][name][title].items()
    }


def bars(of_seeds: Sequence[Tables]) -> list[Bar]:
    """What has to be shown."""

    def over(name: str, way: str, figure: str) -> list[float]:
        return [tables[name]["over equal steps"][way][figure] for tables in of_seeds]

    found = [
        Bar(f"chord cost over that of equal steps, 4, {name}", fmean(over(name, CHORD, "cost, 4")), 0.85)
        for name in (DIGITS, SMOOTH)
    ]
    for name in (EXACT, POINTS, DIGITS, SMOOTH):
        ratios = [over(name, ENDPOINT, f"error, {count}") for count in COUNTS]
        largest, mean = max(map(max, ratios)), fmean(map(fmean, ratios))
        found.append(Bar(f"endpoint search, largest of all seeds and steps, {name}", largest, 1.0))
        found.append(Bar(f"endpoint search, mean of all seeds and steps, {name}", mean, 0.97))
    for name in (POINTS, DIGITS):
        for way in (ENDPOINT, CHORD):
            ratios = [tables[name]["straightened at 4 steps"][way]["after / before"] for tables in of_seeds]
            found.append(Bar(f"straightened over unstraightened, {way} grid of 4, {name}", fmean(ratios), 0.1))
    return found


def main() -> int:
    """Trains, searches, straightens, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    options = by_seed.parser(__doc__).parse_args()
    of_seeds = by_seed.for_seeds(options, run)
    titles = [(name, title) for name, tables in of_seeds[0].items() for title in tables]
    for name, title in titles[:-1]:
        show(f"{name}: {title}", gathered(of_seeds, name, title), [])
    name, title = titles[-1]
    return show(f"{name}: {title}", gathered(of_seeds, name, title), bars(of_seeds))


if __name__ == "__main__":
    raise SystemExit(main())
