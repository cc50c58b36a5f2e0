"""Sparsity-constrained routing against POT and against top-1: OMP_NUM_THREADS=1 python -m tests.benchmarks.sparse_ot.

Speed: CPU time of the process, one thread on both sides, runs interleaved, the least of the repeats. Both dual values
are computed by one function in float64 from the token potentials alone. POT climbs the semi-dual of all tokens, in
float64, and sorts every score in each evaluation. The router itself solves in a fixed number of evaluations, see
:mod:`tests.benchmarks.sparse_ot_convergence`.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moe.ot import Plan, exact, sparsity_constrained
from netsim.foundation.files import replacing
from tests.moe.ot.routers import skewed_logits

# Tokens, experts, iterations of POT.
SIZES = ((4096, 64, 60), (16384, 64, 25))
GAMMAS = (0.1, 0.3)
CAPACITY = 1.25
ITERATIONS = 10


def dual_value(token_potentials: np.ndarray, cost: np.ndarray, *, slots: int, gamma: float) -> float:
    """Dual value a token of the capacity problem, by sorting: the definition, with nothing of either solver in it."""
    num_tokens, num_experts = cost.shape
    load = num_tokens / num_experts
    scores = -np.sort(-(token_potentials[:, None] - cost), axis=0)[:slots]
    thresholds = (scores.cumsum(axis=0) - gamma * load) / np.arange(1, slots + 1)[:, None]
    # The threshold is the largest of these: each is the threshold of a smaller set of entries.
    plan = np.maximum(scores - thresholds.max(axis=0), 0) / gamma
    return float((token_potentials.sum() - (plan * scores - gamma / 2 * plan**2).sum()) / num_tokens)


def by_pot(cost: np.ndarray, *, slots: int, gamma: float, iterations: int) -> np.ndarray:
    """Token potentials after some iterations of POT. Its masses sum to 1, so its gamma is ours times the tokens."""
    from ot.smooth import SparsityConstrained, solve_semi_dual

    num_tokens, num_experts = cost.shape
    a, b = np.full(num_tokens, 1 / num_tokens), np.full(num_experts, 1 / num_experts)
    regulariser = SparsityConstrained(max_nz=slots, gamma=gamma * num_tokens)
    # POT 0.9.7 prints a shape in every evaluation.
    with contextlib.redirect_stdout(io.StringIO()):
        return solve_semi_dual(a, b, cost, regulariser, tol=1e-9, max_iter=iterations)[0]


def route(cost: Tensor, *, slots: int, gamma: float, warm_start: tuple[Tensor, Tensor] | None = None) -> Plan:
    """Our plan: one unit of mass a token, the same load for every expert."""
    num_tokens, num_experts = cost.shape
    a, b = cost.new_ones(num_tokens), cost.new_full([num_experts], num_tokens / num_experts)
    return sparsity_constrained(cost, a, b, k=slots, gamma=gamma, capacity_iterations=ITERATIONS, warm_start=warm_start)


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of a call, and what it returned."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def compare(num_tokens: int, num_experts: int, iterations: int, gamma: float, repeats: int) -> dict[str, Any]:
    """Our time and value against POT's."""
    logits = skewed_logits(num_tokens, num_experts, seed=0)
    cost = -logits.numpy()
    slots = int(CAPACITY * num_tokens / num_experts)
    ours, theirs = [], []
    for _ in range(repeats):
        seconds, potentials = cpu_seconds(lambda: by_pot(cost, slots=slots, gamma=gamma, iterations=iterations))
        theirs.append(seconds)
        seconds, plan = cpu_seconds(lambda: route(-logits.float(), slots=slots, gamma=gamma))
        ours.append(seconds)
    later = -skewed_logits(num_tokens, num_experts, seed=0, drift=0.02).float()
    pot_value = dual_value(potentials, cost, slots=slots, gamma=gamma)
    value = dual_value(plan.potentials[0].double().numpy(), cost, slots=slots, gamma=gamma)
    return {
        "tokens": num_tokens,
        "experts": num_experts,
        "gamma": gamma,
        "pot_iterations": iterations,
        "pot_ms": 1e3 * min(theirs),
        "ours_ms": 1e3 * min(ours),
        "ratio": min(theirs) / min(ours),
        "pot_value": pot_value,
        "ours_value": value,
        "relative_gain": (value - pot_value) / abs(pot_value),
        "evaluations": plan.evaluations,
        "stages": plan.stages,
        "next_batch_cold_evaluations": _balancing(later, gamma, None),
        "next_batch_warm_evaluations": _balancing(later, gamma, plan.potentials),
        "met": value >= pot_value - 1e-4 * abs(pot_value) and min(ours) <= min(theirs) / 5,
    }


def _balancing(cost: Tensor, gamma: float, warm_start: tuple[Tensor, Tensor] | None) -> int:
    """Evaluations until the loads are balanced."""
    return route(cost, slots=len(cost), gamma=gamma, warm_start=warm_start).evaluations


def routing(num_tokens: int, num_experts: int) -> list[dict[str, Any]]:
    """Drops, loads and mean logits of the routers."""
    logits = skewed_logits(num_tokens, num_experts, seed=0).float()
    slots = int(CAPACITY * num_tokens / num_experts)
    demand = logits.argmax(-1).bincount(minlength=num_experts)
    best = logits.amax(-1).mean()
    rows = [_row("top-1, cut", 1 - demand.clamp_max(slots).sum() / num_tokens, slots, num_tokens, num_experts, best)]
    a, b = torch.ones(num_tokens), torch.full([num_experts], num_tokens / num_experts)
    seconds, plan = cpu_seconds(lambda: exact(-logits, a, b))
    affinity = (plan.values * logits).sum() / plan.values.sum()
    most = int(plan.column_counts().max())
    rows.append(_row("exact assignment", torch.zeros(()), most, num_tokens, num_experts, affinity, seconds=seconds))
    for gamma in GAMMAS:
        seconds, plan = cpu_seconds(lambda gamma=gamma: route(-logits, slots=slots, gamma=gamma))
        dropped = (plan.row_counts() == 0).float().mean()
        dense = plan.dense()
        ours = (dense * logits).sum() / dense.sum()
        most = int(plan.column_counts().max())
        row = _row(f"two-stage, gamma {gamma}", dropped, most, num_tokens, num_experts, ours, seconds=seconds)
        row["experts_per_token"] = float(plan.row_counts().float().mean())
        row["met"] = row["dropped"] <= 0.01 and most <= slots and row["affinity"] >= 0.995 * float(affinity)
        rows.append(row)
    return rows


def _row(
    name: str, dropped: Tensor, most: int, num_tokens: int, num_experts: int, affinity: Tensor, seconds: float = 0.0
) -> dict[str, Any]:
    return {
        "router": name,
        "dropped": float(dropped),
        "max_over_mean": most * num_experts / num_tokens,
        "affinity": float(affinity),
        "ms": 1e3 * seconds,
    }


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="a JSON file for the figures")
    given = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        parser.error("OMP_NUM_THREADS: not 1; set it before Python starts, or POT's BLAS spins threads")
    torch.set_num_threads(1)
    route(-skewed_logits(256, 8, seed=0).float(), slots=40, gamma=0.1)
    print("tokens x experts  gamma   POT ms  ours ms  ratio     POT value    our value  relative  cold/warm  met")
    speed = []
    for num_tokens, num_experts, iterations in SIZES:
        for gamma in GAMMAS:
            row = compare(num_tokens, num_experts, iterations, gamma, given.repeats)
            speed.append(row)
            print(
                f"{num_tokens:>11} x {num_experts:<4} {gamma:>4} {row['pot_ms']:>8.0f} {row['ours_ms']:>8.1f}"
                f" {row['ratio']:>6.1f} {row['pot_value']:>13.6f} {row['ours_value']:>12.6f}"
                f" {row['relative_gain']:>9.1e} {row['next_batch_cold_evaluations']:>5}/"
                f"{row['next_batch_warm_evaluations']:<4} {row['met']}"
            )
    print("\nrouter                dropped  max/mean  affinity  CPU ms  met")
    routers = routing(4096, 64)
    for row in routers:
        print(
            f"{row['router']:<20} {row['dropped']:>8.2%} {row['max_over_mean']:>9.3f} {row['affinity']:>9.4f}"
            f" {row['ms']:>7.1f}  {row.get('met', '')}"
        )
    if given.out:
        figures = {"processor": platform.processor(), "torch": torch.__version__, "speed": speed, "routing": routers}
        with replacing(given.out) as unfinished:
            unfinished.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
