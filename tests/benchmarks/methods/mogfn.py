"""Policies that build objects for any preference: python -m tests.benchmarks.methods.mogfn

A grid of 16 x 16 cells (branin and currin, exponent 16) and words of six letters out of four (two n-grams, exponent
4, rewards of at least 0.03), by a perceptron of width 96 with learned backward probabilities, in 1,200 updates of 64
objects whose preferences are drawn evenly. All cells and all 4,096 words are known, so that the probability with which
the policy builds each is computed exactly, by dynamic programming over the states, and so is what it should be. The
figures are over the 11 preferences (0, 1), (0.1, 0.9) .. (1, 0):

* TV: total variation between both, the mean and the largest; log Z: the largest error of the network's own;
* path KL: of the ways that the policy takes from those of the untrained one, nats; reward: mean of what is built;
* hypervolume: of 100 objects of each preference, over that of the whole grid. It is close to 1 for nearly all.

Beside it stand: the untrained policy; the distribution wanted for (0.5, 0.5), and a policy that has learned this
preference alone, asked for the corners (0, 1) and (1, 0); and two rivals that call the reward as often, divided among
the 11 preferences: rejection of evenly drawn cells, and Metropolis steps to neighbouring cells. A rival's distribution
is that of what it has drawn, and each preference costs it the calls again.

Where torchgfn is found (pip install --target DIR torchgfn; --torchgfn DIR), its hypergrid is compared state by state,
and this task learns its reward.

Source: Jain et al., "Multi-Objective GFlowNets", 2023; Malkin et al., "Trajectory Balance", 2022; the reward of
torchgfn: Bengio et al., "Flow Network Based Generative Models for Non-Iterative Diverse Candidate Generation", 2021.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import Data, train
from tests.trainer.task.enumeration import Enumerated, action_probabilities, total_variation
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.model.build import build_model
from trainer.model.mlp import Policy
from trainer.model.network import Network
from trainer.task import TrajectoryBalanceTask
from trainer.task.environment import HyperGrid
from trainer.task.rewards import Preferences, lattice

UPDATES, BATCH, DIVISIONS, SHOWN = 1200, 64, 10, 100
LEARNING: dict[str, Any] = {"lr": 5e-3, "clip_norm": 1.0, "rates": {"log_partition": 10.0}}
GRID: dict[str, Any] = {"environment": {"kind": "hypergrid"}, "exponent": 16.0, "exploration": 0.0}
WORDS: dict[str, Any] = {"environment": {"kind": "ngram"}, "exponent": 4.0, "least_reward": 0.03}
MIDDLE = {"kind": "single", "weights": (0.5, 0.5)}
PREFERENCES = lattice(2, DIVISIONS)
Rows = dict[str, dict[str, float]]


def task_of(seed: int, *, layers: int = 1, **settings: Any) -> TrajectoryBalanceTask:
    """The task of a run with these settings."""
    document = {
        "run": {"dir": "unused", "seed": seed},
        "model": {"kind": "policy_mlp", "hidden": 96, "num_layers": layers},
        "task": settings,
        "optim": {"steps": 1, "global_batch": 1},
    }
    return TrajectoryBalanceTask(RunConfig.model_validate(document))


def numbers() -> Data:
    """Numbers that no batch has had before."""
    counted = itertools.count()

    def draw(num: int, _: torch.Generator) -> Batch:
        ids = torch.tensor(list(itertools.islice(counted, num)))
        return Batch(ids[:, None], None, ids)

    return draw


def trained(task: TrajectoryBalanceTask, seed: int, updates: int = UPDATES) -> Network:
    """A network that has learned the task."""
    network = build_model(task.config, plan_layout(task.config, 1))
    train(task, numbers(), network, steps=updates, batch=BATCH, seed=seed, **LEARNING)
    return network


@dataclass(frozen=True)
class Exact:
    """A task all of whose objects are known.

    Attributes:
        task: it.
        known: the states.
    """

    task: TrajectoryBalanceTask
    known: Enumerated

    @classmethod
    def of(cls, task: TrajectoryBalanceTask) -> "Exact":
        """Enumerates the states."""
        return cls(task, Enumerated.of(task.environment))

    def wanted(self, weights: Tensor) -> tuple[Tensor, float]:
        """What should be built for a preference [K], and log Z."""
        num = len(self.known.states)
        exponent = torch.full((num,), self.task.settings.most_exponent, dtype=torch.float64)
        valued = self.task.log_reward(self.known.states, Preferences(weights.expand(num, -1), exponent))
        return self.known.wanted(valued.log_reward)

    @torch.no_grad()
    def built(self, network: Network, weights: Tensor) -> tuple[Tensor, float]:
        """What a policy builds for a preference [K], and its log Z."""
        num = len(self.known.states)
        asked = self.task.wanted(torch.zeros(num, dtype=torch.int64), weights.expand(num, -1))
        said: list[Policy] = []

        def logits(features: Tensor) -> Tensor:
            said.append(Policy(*network(features[:, None], asked.condition)))
            return said[0].forward[:, 0]

        probabilities = action_probabilities(self.known, logits)
        return self.known.terminating(probabilities), float(said[0].log_partition[0])

    def errors(self, network: Network, weights: Tensor) -> tuple[float, float]:
        """Total variation and error of log Z for a preference."""
        (wanted, log_z), (built, told) = self.wanted(weights), self.built(network, weights)
        return total_variation(wanted, built), abs(log_z - told)

    def figures(self, network: Network) -> dict[str, float]:
        """The figures over all preferences."""
        found = [self.errors(network, weights) for weights in PREFERENCES]
        variations, log_zs = zip(*found, strict=True)
        shown = self.task.built(network, PREFERENCES, SHOWN)
        return {
            "TV": fmean(variations),
            "largest TV": max(variations),
            "log Z error": max(log_zs),
            "reward": float(torch.stack([one.reward.mean() for one in shown]).mean()),
            "path KL": self.path_divergence(network),
        }

    @torch.no_grad()
    def path_divergence(self, network: Network) -> float:
        """Kullback-Leibler divergence of ways from those of even choices, a mean over the preferences."""
        keys, environment = torch.arange(SHOWN), self.task.environment
        found = []
        for weights in PREFERENCES:
            walks = self.task.walked(network, self.task.wanted(keys, weights.expand(SHOWN, -1))).walks
            assert walks is not None
            flat = walks.states.flatten(0, 1)
            allowed = environment.allowed(flat)
            condition = self.task.wanted(keys, weights.expand(SHOWN, -1)).condition
            features = environment.features(flat).unflatten(0, walks.states.shape[:2])
            logits = Policy(*network(features, condition)).forward.flatten(0, 1).double()
            own = logits.masked_fill(~allowed, -torch.inf).log_softmax(1).gather(1, walks.actions.flatten()[:, None])
            gain = (own[:, 0] + allowed.sum(1).double().log()).reshape(walks.taken.shape)
            found.append(float((gain * walks.taken).sum(1).mean()))
        return fmean(found)


def hypervolume(points: Tensor) -> float:
    """Area of what pairs of rewards [N, 2] dominate, from 0."""
    area, reached = 0.0, 0.0
    for first, second in sorted(points.tolist(), reverse=True):
        area += first * max(0.0, second - reached)
        reached = max(reached, second)
    return area


def rejection(exact: Exact, weights: Tensor, calls: int, generator: torch.Generator) -> Tensor:
    """Distribution of evenly drawn cells that are kept with probability R^b."""
    log_reward = log_rewards(exact, weights)
    cells = torch.randint(len(log_reward), (calls,), generator=generator)
    kept = cells[torch.rand(calls, generator=generator, dtype=torch.float64).log() < log_reward[cells]]
    return shares(kept, len(log_reward))


def metropolis(exact: Exact, weights: Tensor, calls: int, generator: torch.Generator) -> Tensor:
    """Distribution of the cells of a chain whose steps go to one of the four neighbours."""
    grid, log_reward = exact.task.environment, log_rewards(exact, weights).tolist()
    assert isinstance(grid, HyperGrid)
    place = {tuple(cell): number for number, cell in enumerate(exact.known.states.tolist())}
    moves = torch.randint(4, (calls,), generator=generator).tolist()
    chances = torch.rand(calls, generator=generator, dtype=torch.float64).log().tolist()
    cell, visited = (0, 0), []
    for move, chance in zip(moves, chances, strict=True):
        step = ((1, 0), (-1, 0), (0, 1), (0, -1))[move]
        other = (cell[0] + step[0], cell[1] + step[1])
        if other in place and chance < log_reward[place[other]] - log_reward[place[cell]]:
            cell = other
        visited.append(place[cell])
    return shares(torch.tensor(visited), len(log_reward))


def log_rewards(exact: Exact, weights: Tensor) -> Tensor:
    """b log R of every state."""
    wanted, log_z = exact.wanted(weights)
    return wanted.log() + log_z


def shares(drawn: Tensor, num: int) -> Tensor:
    """Shares of the numbers below `num`."""
    return torch.bincount(drawn, minlength=num).double() / max(1, len(drawn))


def rival(exact: Exact, draw: Callable[..., Tensor], calls: int, seed: int) -> dict[str, float]:
    """Errors of a way to draw that has as many reward calls, for all preferences together."""
    generator = torch.Generator().manual_seed(seed)
    own = calls // len(PREFERENCES)
    found = [total_variation(exact.wanted(weights)[0], draw(exact, weights, own, generator)) for weights in PREFERENCES]
    return {"TV": fmean(found), "largest TV": max(found), "reward calls": calls}


def spent(task: TrajectoryBalanceTask) -> dict[str, float]:
    """Reward calls, and thousands of states that the network was asked about."""
    return {"reward calls": task.state()["reward_calls"], "network calls, k": task.state()["network_calls"] / 1000}


def on_grid(seed: int) -> Rows:
    """The grid, its controls and rivals."""
    exact = Exact.of(task_of(seed, **GRID))
    network = trained(exact.task, seed)
    shown = exact.task.built(network, PREFERENCES, SHOWN)
    reached = hypervolume(torch.cat([one.rewards for one in shown]))
    whole = hypervolume(exact.task.environment.rewards(exact.known.states))
    single = Exact.of(task_of(seed, **GRID, preferences=MIDDLE))
    alone = trained(single.task, seed)
    middle, corners = exact.wanted(torch.tensor([0.5, 0.5]))[0], [PREFERENCES[0], PREFERENCES[-1]]
    of_middle = [total_variation(exact.wanted(weights)[0], middle) for weights in corners]
    built = single.built(alone, torch.tensor([0.5, 0.5]))[0]
    of_alone = [total_variation(exact.wanted(weights)[0], built) for weights in corners]
    calls = exact.task.state()["reward_calls"]
    fresh = build_model(exact.task.config, plan_layout(exact.task.config, 1))
    names = [f"TV at {weights[0]:g},{weights[1]:g}" for weights in corners]
    own = [exact.errors(network, weights)[0] for weights in corners]
    return {
        "policy": {
            **exact.figures(network),
            "hypervolume": reached / whole,
            **dict(zip(names, own, strict=True)),
            **spent(exact.task),
        },
        "untrained": exact.figures(fresh),
        "(0.5, 0.5), wanted": dict(zip(names, of_middle, strict=True)),
        "(0.5, 0.5), learned": {**dict(zip(names, of_alone, strict=True)), **spent(single.task)},
        "rejection": rival(exact, rejection, calls, seed),
        "Metropolis": rival(exact, metropolis, calls, seed),
    }


def of_words(seed: int) -> Rows:
    """The words."""
    exact = Exact.of(task_of(seed, layers=2, **WORDS))
    network = trained(exact.task, seed)
    fresh = build_model(exact.task.config, plan_layout(exact.task.config, 1))
    calls = exact.task.state()["reward_calls"]
    kept = rival(exact, rejection_of_words, calls, seed)
    return {
        "policy": {**exact.figures(network), **spent(exact.task)},
        "untrained": exact.figures(fresh),
        "rejection": kept,
    }


def rejection_of_words(exact: Exact, weights: Tensor, calls: int, generator: torch.Generator) -> Tensor:
    """As :func:`rejection`, of words alone."""
    words = exact.known.stops.nonzero()[:, 0]
    log_reward = log_rewards(exact, weights)
    drawn = words[torch.randint(len(words), (calls,), generator=generator)]
    kept = drawn[torch.rand(calls, generator=generator, dtype=torch.float64).log() < log_reward[drawn]]
    return shares(kept, len(log_reward))


def beside_torchgfn(folder: Path, seed: int) -> Rows:
    """Errors of this task on the reward of torchgfn's hypergrid, whose states and masks must agree."""
    sys.path.append(str(folder))
    from gfn.gym import HyperGrid as Theirs  # pyright: ignore[reportMissingImports]

    side = 8
    theirs = Theirs(ndim=2, height=side, store_all_states=True, calculate_partition=True)
    settings = {"environment": {"kind": "hypergrid", "side": side, "objectives": ["sphere"]}, "exponent": 1.0}
    task = task_of(seed, **settings, exploration=0.0)
    exact = Exact.of(task)
    states = theirs.states_from_tensor(exact.known.states)
    assert len(theirs.all_states.tensor) == len(exact.known.states)
    assert torch.equal(states.forward_masks, task.environment.allowed(exact.known.states))
    assert torch.equal(states.backward_masks, task.environment.leading(exact.known.states))
    rewards = theirs.reward(states).double()
    table = torch.zeros(side, side, dtype=torch.float64)
    table[tuple(exact.known.states.T)] = rewards / rewards.max()
    environment: Any = task.environment
    environment.rewards = lambda states: table[tuple(states.T)][:, None]
    weights = torch.ones(1, dtype=torch.float64)
    ours, log_z = exact.wanted(weights)
    place = theirs.get_terminating_states_indices(states)
    differs = total_variation(ours, theirs.true_dist()[place].double())
    shifted = abs(log_z + float(rewards.max().log()) - float(theirs.log_partition()))
    variation, error = exact.errors(trained(task, seed), weights)
    return {"policy": {"TV": variation, "log Z error": error, "TV of the targets": differs, "log Z differs": shifted}}


def run(seed: int, torchgfn: Path | None) -> dict[str, Rows]:
    """All tables of one seed."""
    torch.set_num_threads(1)
    tables = {"grid": on_grid(seed), "words": of_words(seed)}
    if torchgfn is not None:
        tables["torchgfn"] = beside_torchgfn(torchgfn, seed)
    print(f"seed {seed} is done", file=sys.stderr, flush=True)
    return tables


def main() -> int:
    """Trains, enumerates, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = by_seed.parser(__doc__)
    parser.add_argument("--torchgfn", type=Path, metavar="DIR", help="folder that torchgfn is installed in")
    options = parser.parse_args()
    of_seeds = by_seed.for_seeds(options, partial(run, torchgfn=options.torchgfn))

    def over(table: str, row: str, figure: str) -> list[float]:
        return [tables[table][row][figure] for tables in of_seeds]

    bars = [
        Bar("grid: mean TV over the preferences", fmean(over("grid", "policy", "TV")), 0.12),
        Bar(
            "grid: largest TV of all preferences, mean of the seeds", fmean(over("grid", "policy", "largest TV")), 0.18
        ),
        Bar("grid: largest error of log Z, mean of the seeds", fmean(over("grid", "policy", "log Z error")), 0.4),
        Bar("words: mean TV over the preferences", fmean(over("words", "policy", "TV")), 0.15),
    ]
    for row, corner in itertools.product(("wanted", "learned"), ("1,0", "0,1")):
        least = min(over("grid", f"(0.5, 0.5), {row}", f"TV at {corner}"))
        bars.append(Bar(f"grid: (0.5, 0.5), {row}, asked for {corner}", least, 0.4, at_least=True))
    if options.torchgfn is not None:
        bars.append(
            Bar("torchgfn's reward: TV of the targets", max(over("torchgfn", "policy", "TV of the targets")), 1e-6)
        )
        bars.append(Bar("torchgfn's reward: TV of the policy", max(over("torchgfn", "policy", "TV")), 0.12))
    titles = list(of_seeds[0])
    gathered = {
        title: {
            row: {figure: [tables[title][row][figure] for tables in of_seeds] for figure in figures}
            for row, figures in of_seeds[0][title].items()
        }
        for title in titles
    }
    for title in titles[:-1]:
        show(title, gathered[title], [])
    return show(titles[-1], gathered[titles[-1]], bars)


if __name__ == "__main__":
    raise SystemExit(main())
