"""How near to balance a fixed number of evaluations comes, beside the solver with a tolerance.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.sparse_ot_convergence [--kinds KIND ..] [--steps 200] [--out FILE]

A row for each kind of logits and size. Two batches of one router: the first is solved from zero (cold) and once more
from what that gave, as the next optimiser step would; the second batch from there (warm). Imbalance is the largest
distance of an expert's load in the quadratic plan from the mean, over it, computed in float64 from the potentials
alone. "over" is the share of the choices of each token's best experts beyond a capacity of 1.25, which the router
has to give to others. Trained logits are those of `configs/runs/digits_moe.yaml` on one rank, of its last layer.
"""

import argparse
import json
import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from moe.ot import balancing_potentials, expert_potentials
from moe.router.sparse_ot import SparseOTRouter
from netsim.foundation.files import replacing
from tests.moe.ot.routers import skewed_logits

SIZES = ((256, 8, 1), (2048, 8, 2), (2048, 64, 1), (4096, 64, 2), (16384, 64, 1), (16384, 64, 2), (16384, 64, 8))
SIZES = (*SIZES, (16384, 256, 1), (16384, 256, 2), (16384, 256, 8))
"""Tokens, experts and experts a token."""
TRAINED = ((8, 1), (64, 2))
"""Experts and experts a token of networks that are trained."""
GAMMA, CAPACITY, EVALUATIONS, WIDTH = 0.1, 1.25, (4, 5, 6, 8), 64
CONFIG = Path("configs/runs/digits_moe.yaml")

Batches = tuple[Tensor, Tensor]


def standardised(logits: Tensor) -> Tensor:
    """Logits around each token's mean, over their standard deviation."""
    logits = logits - logits.mean(dim=1, keepdim=True)
    return (logits / logits.square().mean().sqrt()).float()


def at_initialisation(tokens: int, experts: int) -> Batches:
    """Gaussian tokens under a Gaussian gate."""
    generator = torch.Generator().manual_seed(0)
    gate = torch.randn(WIDTH, experts, generator=generator)
    first, second = (torch.randn(tokens, WIDTH, generator=generator) @ gate for _ in range(2))
    return standardised(first), standardised(second)


def with_a_favourite(tokens: int, experts: int) -> Batches:
    """The same where all tokens like the first expert by three standard deviations more."""
    first, second = at_initialisation(tokens, experts)
    for batch in (first, second):
        batch[:, 0] += 3
    return standardised(first), standardised(second)


def in_clusters(tokens: int, experts: int) -> Batches:
    """Clusters of tokens, a few far more popular than the rest; the gate has moved by the second batch."""
    first, second = (skewed_logits(tokens, experts, seed=0, drift=drift) for drift in (0.0, 0.02))
    return standardised(first), standardised(second)


KINDS: dict[str, Callable[[int, int], Batches]] = {
    "at initialisation": at_initialisation,
    "one favourite": with_a_favourite,
    "clusters": in_clusters,
}


def trained(experts: int, top_k: int, steps: int) -> Batches:
    """The last two batches of a run on digits, which has a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (Path(folder), experts, top_k, steps)
        process = multiprocessing.get_context("spawn").Process(target=train, args=arguments)
        process.start()
        process.join()
        first, second = torch.load(Path(folder) / "logits.pt")
    return standardised(first), standardised(second)


def train(folder: Path, experts: int, top_k: int, steps: int) -> None:
    """Trains a network and keeps the logits of its last layer in the last two passes.

    Args:
        folder: of the run, and of ``logits.pt``.
        experts: of each layer.
        top_k: experts of a token.
        steps: of the optimiser.
    """
    from trainer.experiment.train import run

    kept: dict[int, list[Tensor]] = {}
    select = SparseOTRouter.select

    def recording(router: SparseOTRouter, logits_TE: Tensor, counted_T: Tensor | None) -> Any:
        if router.training:
            kept[id(router)] = [*kept.get(id(router), [])[-1:], logits_TE.detach().clone()]
        return select(router, logits_TE, counted_T)

    torch.set_num_threads(1)
    settings = [f"run.dir={folder}/run", f"optim.steps={steps}", f"moe.num_experts={experts}", f"moe.top_k={top_k}"]
    settings += ["parallel.expert=1", "evaluate.every=null", "sample.every=null", "trace.steps=[]"]
    with patch.object(SparseOTRouter, "select", recording):
        run(CONFIG, [*settings, f"checkpoint.every={steps}", "observe.tensorboard=false"], None)
    torch.save(list(kept.values())[-1], folder / "logits.pt")


def imbalance(scores: Tensor, potentials: Tensor, top_k: int) -> float:
    """Of the quadratic plan's loads at these potentials."""
    target = top_k * GAMMA
    priced = scores.double() + potentials.double()
    best = priced.topk(min(max(16, 4 * top_k), priced.shape[1]), dim=1).values
    ranks = torch.arange(1, best.shape[1] + 1)
    threshold = ((best.cumsum(dim=1) - target) / ranks).amax(dim=1, keepdim=True)
    load = (priced - threshold).relu().sum(dim=0)
    return float((load / load.mean() - 1).abs().max())


def over(scores: Tensor, potentials: Tensor, top_k: int) -> float:
    """Share of the choices of the best experts at these potentials that exceed the capacity."""
    tokens, experts = scores.shape
    counts = (scores + potentials).topk(top_k, dim=1).indices.flatten().bincount(minlength=experts)
    slots = math.ceil(round(CAPACITY * tokens * top_k / experts, 6))
    return float((counts - slots).clamp_min(0).sum() / (tokens * top_k))


def with_a_tolerance(scores: Tensor, start: Tensor, top_k: int) -> tuple[Tensor, int]:
    """Potentials of the solver with a tolerance, and its evaluations."""
    tokens, experts = scores.shape
    masses, loads = scores.new_full([tokens], top_k), scores.new_full([experts], top_k * tokens / experts)
    k = min(max(8, top_k), experts)
    plan = expert_potentials(-scores, masses, loads, k=k, gamma=GAMMA, warm_start=start)
    return plan.potentials[1], plan.evaluations


def rows(name: str, batches: Batches, top_k: int) -> Iterator[dict[str, Any]]:
    """The solver with a tolerance, then each number of evaluations."""
    first, second = batches
    zero = torch.zeros(first.shape[1])
    solvers: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, int]]] = {
        "tolerance": lambda scores, start: with_a_tolerance(scores, start, top_k)
    }
    for number in EVALUATIONS:

        def fixed(scores: Tensor, start: Tensor, number: int = number) -> tuple[Tensor, int]:
            found = balancing_potentials(scores, start, mass=top_k, gamma=GAMMA, evaluations=number)
            return found.potentials, number

        solvers[f"{number} evaluations"] = fixed
    for solver, solve in solvers.items():
        cold, cold_evaluations = solve(first, zero)
        again, _ = solve(first, cold)
        warm, warm_evaluations = solve(second, again)
        yield {
            "logits": name,
            "tokens": len(first),
            "experts": first.shape[1],
            "top_k": top_k,
            "solver": solver,
            "evaluations": [cold_evaluations, warm_evaluations],
            "cold": imbalance(first, cold, top_k),
            "again": imbalance(first, again, top_k),
            "warm": imbalance(second, warm, top_k),
            "over_cold": over(first, cold, top_k),
            "over_warm": over(second, warm, top_k),
        }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--kinds", nargs="+", choices=[*KINDS, "trained"], default=[*KINDS, "trained"], help="of logits"
    )
    parser.add_argument("--steps", type=int, default=200, help="training steps of trained logits")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("OMP_NUM_THREADS: not 1; set it before Python starts")
    torch.set_num_threads(1)
    cases = [
        (kind, lambda make=make, t=tokens, e=experts: make(t, e), top_k)
        for kind, make in KINDS.items()
        if kind in given.kinds
        for tokens, experts, top_k in SIZES
    ]
    if "trained" in given.kinds:
        cases += [
            ("trained", lambda e=experts, k=top_k: trained(e, k, given.steps), top_k) for experts, top_k in TRAINED
        ]
    print(f"{'logits':<18} tokens experts k solver         evaluations    cold   again    warm  over: cold    warm")
    found = []
    for kind, make, top_k in cases:
        for row in rows(kind, make(), top_k):
            found.append(row)
            cold, warm = row["evaluations"]
            print(
                f"{kind:<18} {row['tokens']:>6} {row['experts']:>7} {top_k} {row['solver']:<14} {cold:>5} {warm:>5}"
                f" {row['cold']:>7.2%} {row['again']:>7.2%} {row['warm']:>7.2%} {row['over_cold']:>11.2%}"
                f" {row['over_warm']:>7.2%}",
                flush=True,
            )
    if given.out:
        with replacing(given.out) as unfinished:
            unfinished.write_text(json.dumps({"torch": torch.__version__, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
