"""Adjoint matching against tilts in closed form: python -m tests.benchmarks.methods.adjoint_matching

The base is the exact flow from N(0, I) to N((1, -0.5), 0.6^2 I). A small network is added to its velocity and begins
at 0. Two rewards have closed tilts: b . x with b = (1.5, -1), whose tilt is N((1.54, -0.86), 0.6^2 I), and
-x'Qx / 2 with Q = diag(4, 1), whose tilt is a Gaussian of precision Q + I / 0.6^2. 20,000 points are drawn from the
same noises by Heun's method (20 steps, "ODE") and by memoryless steps (40, floor 0.001, "SDE"):

* off mean: largest distance of a coordinate's mean from the tilt's;
* off deviation: largest relative distance of a coordinate's deviation;
* reward, and path KL: the divergence of memoryless paths from those of the base. That of the tilt itself is the least
  with which its distribution is reached;
* network calls: of one state in training, those of the base included.

Rivals at as many network calls in training:

* Flow-GRPO on the same network and reward: weight 1 of its penalty against the reward, which is measured in deviations
  of the base's; its paths remember where they begin, so that the tilt is not its optimum;
* guidance along the gradient of the reward at the present estimate of the data, without training: exact for the
  linear reward here, and a forward and a backward pass of the base for each step of each point.

With ``--out`` the tilt is drawn over the base, with the closed form.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import train
from trainer.config.file import resolve
from trainer.config.model import MLPConfig
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.flow import UNCONDITIONAL, Condition, path, sampler, target
from trainer.flow.field import NetworkField
from trainer.flow.reward import Reward
from trainer.model.mlp import MLP
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised
from trainer.task.policy.adjoint_matching import AdjointMatching
from trainer.task.policy.grpo import GRPOTask

NUM, BATCH, STEPS = 20_000, 128, 200
MEAN, DEVIATION = torch.tensor([1.0, -0.5]), 0.6
SLOPE, CURVATURE = torch.tensor([1.5, -1.0]), torch.tensor([4.0, 1.0])
PATH_STEPS, NODES, LEARNING_RATE = 40, 10, 3e-3
GROUP, GRPO_STEPS, PROMPTS = 24, 10, 16
LINEAR = path.LinearConfig().build()
WAYS: dict[str, sampler.AnyConfig] = {
    "ODE": sampler.Heun(steps=20),
    "SDE": sampler.EulerMaruyama(steps=PATH_STEPS, diffusion=sampler.MemorylessDiffusion()),
}
Velocity = Callable[..., Tensor]
Figures = dict[str, float]


class Sloping(Reward):
    """b . x."""

    def __call__(self, examples: Tensor, _condition: Condition, /) -> Tensor:
        """See `Reward`."""
        return examples @ SLOPE


class Bowl(Reward):
    """-x'Qx / 2."""

    def __call__(self, examples: Tensor, _condition: Condition, /) -> Tensor:
        """See `Reward`."""
        return -(examples.square() @ CURVATURE) / 2


REWARDS: dict[str, type[Reward]] = {"linear": Sloping, "quadratic": Bowl}


def closed_tilt(name: str) -> tuple[Tensor, Tensor]:
    """Means and deviations [2] of the base times exp(reward)."""
    if name == "linear":
        return MEAN + DEVIATION**2 * SLOPE, torch.full((2,), DEVIATION)
    precision = DEVIATION**-2 + CURVATURE
    return MEAN / DEVIATION**2 / precision, precision.rsqrt()


def closed_figures(name: str) -> Figures:
    """The mean reward of the tilt, and its divergence from the base."""
    mean, deviation = closed_tilt(name)
    squares = mean.square() + deviation.square()
    reward = mean @ SLOPE if name == "linear" else -(squares @ CURVATURE) / 2
    ratio = deviation.square() / DEVIATION**2
    divergence = (ratio - 1 - ratio.log() + (mean - MEAN).square() / DEVIATION**2).sum() / 2
    return {"reward": float(reward), "path KL": float(divergence)}


def exact(x: Tensor, t: Tensor, *_: Any) -> Tensor:
    """The velocity [B, 2] of the base."""
    t = t[:, None]
    variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (x - t * MEAN)


class Beside(nn.Module):
    """A base, and a network that is added to its velocity.

    Args:
        base: the velocity [B, D].
        num_values: D.
        hidden: width of the network.
        seed: of its weights; it begins at 0.
    """

    def __init__(self, base: Velocity, num_values: int, hidden: int, seed: int) -> None:
        super().__init__()
        config = MLPConfig(hidden=hidden, num_layers=2)
        network = MLP(NetworkSpec(config=config, state_shape=(num_values,)))
        self.base, self.added = base, initialised(network, seed)

    def forward(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The velocity."""
        return self.base(x, t) + self.added(x, t, condition)


def configured(task: Mapping[str, Any]) -> RunConfig:
    """A run over points in the plane, for its task alone."""
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "data": {"kind": "toy", "name": "eight_gaussians"},
        "optim": {"steps": 1, "global_batch": 1},
        "task": task,
    }
    return RunConfig.model_validate(resolve(document).document)


def starts(count: int, _generator: torch.Generator) -> Batch:
    """A batch of which nothing is used but its size."""
    return Batch(torch.zeros(count, 2), None, torch.arange(count))


@torch.no_grad()
def drawn(velocity: Velocity, chosen: sampler.AnyConfig, num_values: int = 2, num: int = NUM) -> Tensor:
    """Points [num, D] that a velocity leads to, from the same noises every time."""
    field = NetworkField(lambda x, t: velocity(x, t, UNCONDITIONAL), target.Velocity().build(LINEAR))
    x_0 = torch.randn(num, num_values, generator=torch.Generator().manual_seed(99))
    keys = fold_in(torch.tensor(99), torch.arange(num))
    return chosen.build(LINEAR).sample(field, x_0, chosen.grid(), keys=keys).final


@torch.no_grad()
def path_kl(velocity: Velocity, base: Velocity, num_values: int = 2, num: int = 2000) -> float:
    """Divergence of the memoryless paths of a velocity from those of the base, the first step left out."""
    solver = sampler.Memoryless(diffusion=sampler.MemorylessDiffusion(floor=1e-3))
    times = torch.linspace(0, 1, PATH_STEPS + 1)
    x_0 = torch.randn(num, num_values, generator=torch.Generator().manual_seed(98))
    field = NetworkField(lambda x, t: velocity(x, t, UNCONDITIONAL), target.Velocity().build(LINEAR))
    x = solver.sample(field, x_0, times, keys=fold_in(torch.tensor(98), torch.arange(num))).x
    paid = torch.zeros(num)
    for t, state in zip(times[1:-1], x[1:-1], strict=True):
        difference = velocity(state, t.expand(num), UNCONDITIONAL) - base(state, t.expand(num))
        paid += difference.square().sum(1) / solver.diffusion.e(t, t) / PATH_STEPS
    return float(paid.mean())


def figures(name: str, velocity: Velocity) -> Figures:
    """What is told of a velocity."""
    mean, deviation = closed_tilt(name)
    found: Figures = {}
    for way, chosen in WAYS.items():
        x = drawn(velocity, chosen)
        found[f"{way} off mean"] = float((x.mean(0) - mean).abs().max())
        found[f"{way} off deviation"] = float((x.std(0) / deviation - 1).abs().max())
        if way == "ODE":
            found["reward"] = float(REWARDS[name]()(x, UNCONDITIONAL).mean())
    return {**found, "path KL": path_kl(velocity, exact)}


def matched(name: str, seed: int) -> tuple[Beside, Figures]:
    """A network trained by adjoint matching."""
    settings = {"kind": "adjoint_matching", "steps": PATH_STEPS, "nodes": NODES}
    task = AdjointMatching(configured({**settings, "reward": {"class": _class(name)}}), base=exact)
    network = Beside(exact, 2, 64, seed)
    train(task, starts, network, steps=STEPS, batch=BATCH, lr=LEARNING_RATE, seed=seed)
    calls = task.paths * (2 * PATH_STEPS + NODES)
    return network, {"reward calls": float(task.paths), "network calls": float(calls)}


def grouped(name: str, seed: int, network_calls: float) -> tuple[Beside, Figures]:
    """A network trained by Flow-GRPO with as many calls."""
    reward = REWARDS[name]()(drawn(exact, WAYS["ODE"]), UNCONDITIONAL)
    settings = {"kind": "grpo", "steps": GRPO_STEPS, "group": GROUP, "kl": float(1 / reward.std())}
    task = GRPOTask(configured({**settings, "reward": {"class": _class(name)}}))
    task.reference = cast(Any, SimpleNamespace(model=lambda _device: exact))
    network = Beside(exact, 2, 64, seed)
    of_a_step = PROMPTS * GROUP * (GRPO_STEPS + 2 * (GRPO_STEPS - 1))
    steps = round(network_calls / of_a_step)
    train(task, starts, network, steps=steps, batch=PROMPTS, lr=1e-3, seed=seed, clip_norm=1.0)
    spent = {"reward calls": float(task.reward_calls), "network calls": float(steps * of_a_step)}
    return network, spent


def guided(name: str) -> Velocity:
    """The base, led along the gradient of the reward at the estimate of the data."""
    reward = REWARDS[name]()

    def velocity(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        t = t.clamp_min(1e-3)  # at t = 0 the estimate does not depend on the state
        with torch.enable_grad():
            state = x.detach().requires_grad_()
            found = exact(state, t)
            value = reward(state + (1 - t[:, None]) * found, condition).sum()
            (gradient,) = torch.autograd.grad(value, state)
        return found.detach() + ((1 - t) / t)[:, None] * gradient

    return velocity


def run(job: tuple[str, int, bool]) -> tuple[dict[str, Figures], dict[str, Tensor]]:
    """All rows of one reward and one seed, and points for the picture."""
    name, seed, rivals = job
    torch.set_num_threads(1)
    network, spent = matched(name, seed)
    rows = {"adjoint matching": {**figures(name, network), **spent}}
    print(f"{name}, seed {seed}: {rows['adjoint matching']}", file=sys.stderr, flush=True)
    rows["base"] = figures(name, exact)
    if rivals:
        other, its = grouped(name, seed, spent["network calls"])
        rows["Flow-GRPO"] = {**figures(name, other), **its}
        rows["guidance"] = figures(name, guided(name))
    rows["closed tilt"] = closed_figures(name)
    return rows, {"adjoint matching": drawn(network, WAYS["ODE"]), "base": drawn(exact, WAYS["ODE"])}


def _class(name: str) -> str:
    return f"tests.benchmarks.methods.adjoint_matching:{REWARDS[name].__name__}"


def bars(name: str, table: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Bar]:
    """What has to be shown, of every seed."""
    limits = {"ODE off mean": 0.08, "SDE off mean": 0.08, "ODE off deviation": 0.05, "SDE off deviation": 0.03}
    own = table["adjoint matching"]
    return [Bar(f"{name}: {figure}, largest of all seeds", max(own[figure]), limit) for figure, limit in limits.items()]


def picture(points: Mapping[str, Mapping[str, Tensor]], out: Path) -> None:
    """Draws the tilt over the base, and the closed form as the ellipse of two deviations."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse

    drawing = Figure(figsize=(5.2 * len(points), 4.8), layout="constrained")
    for axes, (name, of_reward) in zip(drawing.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        for label, color in (("base", "#bbbbbb"), ("adjoint matching", "#0072b2")):
            x = of_reward[label][:2000]
            axes.plot(*x.T.numpy(), ".", color=color, markersize=2, alpha=0.6, label=label)
        ends = {"base in closed form": (MEAN, torch.full((2,), DEVIATION), "#777777")}
        ends["tilt in closed form"] = (*closed_tilt(name), "#d55e00")
        for label, (mean, deviation, color) in ends.items():
            centre, (width, height) = (float(mean[0]), float(mean[1])), (4 * deviation).tolist()
            axes.add_patch(Ellipse(centre, width, height, fill=False, color=color, linewidth=1.5, label=label))
            axes.plot(*centre, "+", color=color)
        axes.set_title(f"{name} reward: two deviations around the mean")
        axes.set_aspect("equal")
        axes.legend(frameon=False, markerscale=5)
    drawing.savefig(out, dpi=120)


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = seeds_parser(__doc__)
    parser.add_argument("--rewards", nargs="+", choices=REWARDS, default=tuple(REWARDS), help="default: both")
    parser.add_argument("--no-rivals", action="store_true", help="leave the rivals out, which take half of the time")
    parser.add_argument("--out", type=Path, help="PNG that the tilts are drawn to")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each in a process (default: 1)")
    options = parser.parse_args()
    jobs = [(name, seed, not options.no_rivals) for name in options.rewards for seed in options.seeds]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        found = dict(zip(jobs, pool.map(run, jobs), strict=True))
    missed = 0
    for name in options.rewards:
        of_seeds = [rows for (reward, *_), (rows, _) in found.items() if reward == name]
        table = {
            row: {figure: [rows[row][figure] for rows in of_seeds] for figure in of_seeds[0][row]}
            for row in of_seeds[0]
        }
        missed += show(f"{name} reward, exact Gaussian base", table, bars(name, table))
    if options.out is not None:
        picture(
            {name: found[name, options.seeds[0], not options.no_rivals][1] for name in options.rewards}, options.out
        )
    return min(missed, 1)


if __name__ == "__main__":
    raise SystemExit(main())
