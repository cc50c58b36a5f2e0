"""Placements of experts, replayed and priced traces, files of other tools."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from tests.benchmarks.golden_results.gold import Case, Gold, call, done
from tests.forked import ROOT
from tests.moe.traces import markov_trace, topic_trace

FILES = ROOT / "tests" / "files"
TWO_NODES = ROOT / "configs" / "scenarios" / "two_nodes.yaml"

OBJECTIVES = ("coherent", "home", "copies", "hierarchical")
SOLVERS = (
    "auto", "sweep", "pair", "viterbi", "assignment", "enumeration", "swaps", "contiguous", "packing"
)  # fmt: skip
ROUTING = {
    "recorded": lambda: None,
    "chain": lambda: markov_trace(8, 3, 0.8, 1500, seed=1, world_size=4),
    "topics": lambda: topic_trace(16, 4, 2, 1500, seed=2, world_size=4, topics=8),
}
CHOICES = {
    "uncapped": ("--max-load", "none"),
    "capped": ("--max-load", "1.3"),
    "replicas": ("--slots-per-rank", "5"),
    "least_loaded": ("--slots-per-rank", "5", "--replicas", "least_loaded"),
    "rates": ("--cost", "intra=900Gbps,inter=100Gbps,latency=5us", "--compute", "200TFLOPs",
              "--expert-parameters", "16384"),
    "seed": ("--seed", "3"),
}  # fmt: skip
DISPATCH = ("coherent", "home", "capped", "copies", "hierarchical")


def moe_cases() -> Iterator[Case]:
    """Placements and reports by every objective and solver, replayed and priced traces, files of other tools."""
    for routing, objective in product(ROUTING, OBJECTIVES):
        yield Case(f"moe/{routing}/{objective}", partial(_placed, routing, objective))
    yield Case("moe/replay", _replayed)
    yield Case("moe/price", _priced)
    yield Case("moe/interchange", _interchanged)


def _placed(routing: str, objective: str, gold: Gold, folder: Path) -> None:
    trace, made = FILES / "routing.npz", ROUTING[routing]()
    if made is not None:
        trace = folder / "routing.npz"
        made.write(trace)
    held_out = ("--held-out", str(trace))
    choices = {name: ("--solver", name) for name in SOLVERS} | CHOICES | {"held_out": held_out}
    for name, arguments in choices.items():
        _place(gold, name, (str(trace), "--objective", objective, *arguments), folder)


def _place(gold: Gold, name: str, arguments: tuple[str, ...], folder: Path) -> None:
    out = folder / f"{name}.json"
    fabric = ("--nodes", "2", "--ranks-per-node", "2")
    if done(gold, name, call("moe", "place", *arguments, *fabric, "--out", str(out)), folder):
        gold.json(f"{name}/placement", out, folder)
        gold.json(f"{name}/report", out.with_suffix(".report.json"), folder)


def _recorded(folder: Path) -> tuple[str, ...]:  # noqa: ARG001
    return (str(FILES / "collectives.jsonl"), "--routing", str(FILES / "routing.npz"))


def _replayed(gold: Gold, folder: Path) -> None:
    for placement, dispatch, rule in product(("placement", "replicas"), DISPATCH, ("even", "least_loaded")):
        name, out = f"{placement}/{dispatch}/{rule}", folder / f"{placement}_{dispatch}_{rule}.jsonl"
        given = ("--placement", str(FILES / f"{placement}.json"), "--dispatch", dispatch, "--replicas", rule)
        if done(gold, name, call("moe", "replay", *_recorded(folder), *given, "--out", str(out)), folder):
            gold.files(name, [out])


def _priced(gold: Gold, folder: Path) -> None:
    given = ("--placement", str(FILES / "placement.json"), "--scenario", str(TWO_NODES))
    result = call("moe", "price", *_recorded(folder), *given, "--out", str(folder / "price"))
    if done(gold, "price", result, folder):
        gold.json("price", folder / "price" / "price.json", folder)


def _interchanged(gold: Gold, folder: Path) -> None:
    for name, to in product(("placement", "replicas"), ("exflow-csv", "sglang", "vllm")):
        out = folder / f"{name}.{to}"
        source = str(FILES / f"{name}.json")
        if done(gold, f"{name}/{to}", call("moe", "export", source, str(out), "--to", to), folder):
            gold.files(f"{name}/{to}", [out])
    out = folder / "routing.npy"
    if done(gold, "routing", call("moe", "export", str(FILES / "routing.npz"), str(out), "--to", "exflow-npy"), folder):
        gold.text("routing", f"{np.load(out).tolist()}\n")
