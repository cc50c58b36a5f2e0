"""The linear-path training step beside torchcfm's and flow_matching's: python -m tests.benchmarks.flow_peers

One thread, CPU time. The contestants take turns within each round, in random order; a turn is many steps.

    outside the network   pairs, times, path, target and loss, each with draws of its own; the network is a constant
    whole step            the same with an MLP of hidden width 256, its backward pass and Adam
    transport             pairs of a batch by exact transport, 256 x 64

torchcfm is `ConditionalFlowMatcher` (sigma 0) and `OTPlanSampler("exact")`, flow_matching `AffineProbPath` with
`CondOTScheduler`, each as its documentation uses it. On the same draws the losses are equal to 1e-6, which is checked
first. Ratios are medians over the rounds of ours to theirs; the bars are 1.0, and 1.05 for whole steps. The exit code
is 1 if one is missed.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from statistics import median

import torch
from flow_matching.path import AffineProbPath
from flow_matching.path.scheduler import CondOTScheduler
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchcfm.optimal_transport import OTPlanSampler

from tests.benchmarks.methods.plain_loop import PlainNetwork, flow_task
from trainer.data import Batch
from trainer.flow import UNCONDITIONAL, Condition, coupling
from trainer.flow.coupling import Pairs
from trainer.task import FlowTask

BATCH = 256
SHAPES = {"2": (2,), "64": (64,), "3 x 32 x 32": (3, 32, 32)}
Network = Callable[[Tensor, Tensor, Condition], Tensor]
Step = Callable[[Network], Tensor]
"""From a network to its loss on a batch of data."""


def ours(x_1: Tensor, task: FlowTask, generator: torch.Generator) -> Step:
    """The task of a run, asked as its loop asks."""

    batches = [Batch(x_1, None, ids=torch.empty(0))]

    def step(network: Network) -> Tensor:
        (drawn,) = task.draw(batches, [generator])
        return task.loss(network, drawn).mean()

    return step


def torchcfm(x_1: Tensor, matcher: ConditionalFlowMatcher) -> Step:
    """As in the package's examples."""

    def step(network: Network) -> Tensor:
        x_0 = torch.randn_like(x_1)
        t, x_t, u_t, *_ = matcher.sample_location_and_conditional_flow(x_0, x_1)
        return torch.mean((network(x_t, t, UNCONDITIONAL) - u_t) ** 2)

    return step


def flow_matching(x_1: Tensor, path: AffineProbPath) -> Step:
    """As in the package's examples."""

    def step(network: Network) -> Tensor:
        x_0 = torch.randn_like(x_1)
        sample = path.sample(t=torch.rand(x_1.shape[0]), x_0=x_0, x_1=x_1)
        return torch.pow(network(sample.x_t, sample.t, UNCONDITIONAL) - sample.dx_t, 2).mean()

    return step


def losses_on_the_same_draws(shape: tuple[int, ...]) -> dict[str, float]:
    """The loss of one network at given source points, data and times, as each computes it."""
    generator = torch.Generator().manual_seed(0)
    x_0, x_1 = (torch.randn(BATCH, *shape, generator=generator) for _ in range(2))
    t = torch.rand(BATCH, generator=generator)
    network = PlainNetwork(x_1[0].numel(), hidden=64, layers=2, seed=0)

    def predicted(x_t: Tensor) -> Tensor:
        return network(x_t, t, UNCONDITIONAL)

    task = flow_task()
    sample = task.parts.path.sample(Pairs(x_0, x_1), t, generator=generator)
    mine = task.objective.loss(lambda x, *_: predicted(x), sample, UNCONDITIONAL).mean()
    _, at, velocity, *_ = ConditionalFlowMatcher(0.0).sample_location_and_conditional_flow(x_0, x_1, t)
    theirs = torch.mean((predicted(at) - velocity) ** 2)
    other = AffineProbPath(scheduler=CondOTScheduler()).sample(t=t, x_0=x_0, x_1=x_1)
    others = torch.pow(predicted(other.x_t) - other.dx_t, 2).mean()
    named = {"ours": mine, "torchcfm": theirs, "flow_matching": others}
    return {name: loss.item() for name, loss in named.items()}


def steps(shape: tuple[int, ...]) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]]]:
    """What the contestants do outside the network, and whole steps."""
    x_1 = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(1))
    constant = torch.zeros_like(x_1)
    contestants = {
        "ours": ours(x_1, flow_task(), torch.Generator().manual_seed(2)),
        "torchcfm": torchcfm(x_1, ConditionalFlowMatcher(0.0)),
        "flow_matching": flow_matching(x_1, AffineProbPath(scheduler=CondOTScheduler())),
    }
    outside: dict[str, Callable[[], object]] = {
        name: partial(step, lambda *_: constant) for name, step in contestants.items()
    }
    return outside, {name: _trained(step, x_1[0].numel()) for name, step in contestants.items()}


def _trained(step: Step, num_values: int) -> Callable[[], object]:
    network = PlainNetwork(num_values, hidden=256, layers=3, seed=0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

    def take() -> None:
        optimizer.zero_grad()
        step(network).backward()
        optimizer.step()

    return take


def transports() -> dict[str, Callable[[], object]]:
    """Pairs of 256 points in 64 dimensions by exact transport."""
    generator = torch.Generator().manual_seed(3)
    x_1 = 0.5 + 2 * torch.randn(BATCH, 64, generator=generator)
    own, peer = coupling.build(coupling.MinibatchOT()), OTPlanSampler("exact")
    return {
        "ours": lambda: own.draw(x_1, UNCONDITIONAL, generator=generator),
        "torchcfm": lambda: peer.sample_plan(torch.randn_like(x_1), x_1),
    }


def interleaved(contestants: Mapping[str, Callable[[], object]], rounds: int, turn: int) -> dict[str, list[float]]:
    """CPU seconds of a call in each round.

    Args:
        contestants: what is called.
        rounds: after one that warms up.
        turn: calls of a turn.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    order = Random(0)
    for number in range(-1, rounds):
        for name in order.sample(list(contestants), len(contestants)):
            begun = time.process_time()
            for _ in range(turn):
                contestants[name]()
            if number >= 0:
                found[name].append((time.process_time() - begun) / turn)
    return found


def main() -> int:
    """Measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    table = Table(title=f"CPU time of a step, batch {BATCH}, median of {rounds} rounds", title_justify="left")
    for name in (
        "what",
        "values",
        "ours",
        "torchcfm",
        "flow_matching",
        "ours / torchcfm",
        "ours / flow_matching",
        "bar",
    ):
        table.add_column(name, justify="left" if name == "what" else "right")
    missed = 0
    cases: list[tuple[str, str, dict[str, Callable[[], object]], float, int]] = []
    for name, shape in SHAPES.items():
        losses = losses_on_the_same_draws(shape)
        spread = max(losses.values()) / min(losses.values()) - 1
        assert spread <= 1e-6, f"losses differ: {losses}"
        outside, whole = steps(shape)
        small = len(shape) == 1
        cases += [("outside the network", name, outside, 1.0, 400 if small else 20)]
        cases += [("whole step", name, whole, 1.05, 30 if small else 6)]
    cases.append(("transport", "64", transports(), 1.0, 20))
    for what, name, contestants, bar, turn in cases:
        found = interleaved(contestants, rounds, turn)
        ratios = {
            peer: median(a / b for a, b in zip(found["ours"], found[peer], strict=True))
            for peer in ("torchcfm", "flow_matching")
            if peer in found
        }
        missed += sum(ratio > bar for ratio in ratios.values())
        times = [
            f"{1e6 * median(found[peer]):,.0f} µs" if peer in found else ""
            for peer in ("ours", "torchcfm", "flow_matching")
        ]
        shown = [f"{ratios[peer]:.3f}" if peer in ratios else "" for peer in ("torchcfm", "flow_matching")]
        table.add_row(what, name, *times, *shown, f"{bar:g}")
    console = Console(width=140, highlight=False)
    console.print(table)
    console.print(
        f"losses on the same draws are equal to 1e-6; {missed} bars missed; load average {os.getloadavg()[0]:.2f}"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
