"""Hop costs in the router: bytes between ranks against held-out loss, with placement and without.

``python -m tests.benchmarks.placement_aware_routing --out DIR [--only digits] [--steps N] [--seeds 0 1 2]``

Each run is a whole training on two gloo ranks, one thread each. The sparse-OT router with global potentials pays
``hop_cost`` for an expert on the other rank, at five strengths; top-k routing with an auxiliary loss is the rival. The
placement of a seed is solved on the routing of its contiguous run without hop cost, so that the weights and the data
begin alike. Bytes are those of the recorded trace: dispatch, attention where it gathers keys and values, and the
all-reduces by which the router balances; not the gradients, which are alike in all runs.

A strength costs nothing measurable, "free", where the loss, compared with that of the same seed without hop cost,
rises by no more than the standard error of the rise. Prints a table, writes ``study.json``, of which
``python -m tests.benchmarks.routing_study`` makes a page. Runs that are there already are not trained again.
"""

import argparse
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from moe.__main__ import main as moe
from moe.collective_trace import CollectiveRecord, TraceHeader, read
from netsim.foundation.files import replacing
from tests.benchmarks.routing_study import BYTES_PER_MB, Experiment, RoutingStudy
from tests.forked import command
from trainer.observe.metrics import read_metrics

RANKS = 2
STRENGTHS = (0.0, 0.1, 0.3, 1.0, 3.0)
RECORDED = 3
SPARSE_OT = "moe.router={{kind: sparse_ot, gamma: 0.1, capacity_factor: 1.25, potentials: global, hop_cost: {}}}"
RIVAL, RIVAL_NAME = "moe.router={kind: top_k, aux_loss: 0.01}", "top-k, auxiliary loss 0.01"
QUIET = ("sample.every=null", "observe.tensorboard=false", "trace.ranks_per_node=2")


@dataclass(frozen=True)
class Workload:
    """What is trained.

    Attributes:
        name: of the data set.
        config: file that the runs begin from.
        dispatch: dispatch mode.
        steps: optimiser steps of a run.
        settings: what differs from the file.
    """

    name: str
    config: str
    dispatch: str
    steps: int
    settings: tuple[str, ...]


WORKLOADS = (
    Workload("digits", "configs/runs/digits_moe.yaml", "copies", 150, ("moe.top_k=2",)),
    Workload(
        "Python source",
        "configs/runs/gpt_moe.yaml",
        "coherent",
        150,
        (
            "data={kind: python_source, context: 64, held_out: 20000}",
            "model={kind: gpt, hidden: 64, num_layers: 3, num_heads: 4, num_kv_heads: 1, context: 64}",
            "moe.expert_hidden=128",
        ),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, prints and writes.

    Args:
        argv: arguments, those of the process if None.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where runs and study.json go")
    parser.add_argument("--only", choices=[one.name for one in WORKLOADS], help="one data set (default: all)")
    parser.add_argument("--steps", type=int, help="optimiser steps of a run (default: 150)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args(argv)
    folder = given.out.resolve()
    experiments = []
    for workload in WORKLOADS:
        if given.only in (None, workload.name):
            steps = given.steps or workload.steps
            runs = list(_runs(folder / workload.name.replace(" ", "_"), workload, steps, given.seeds))
            own = {"config": workload.config, "dispatch": workload.dispatch, "steps": steps, "ranks": RANKS}
            experiments.append({"name": workload.name, **own, "rival": RIVAL_NAME, "runs": runs})
    path = folder / "study.json"
    with replacing(path) as temporary:
        document = {"format": "flowfabric.routing_study/1", "experiments": experiments}
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    study = RoutingStudy.read(path)
    for experiment in study.experiments:
        Console(width=140).print(table(experiment))
    for placed, where in ((False, "contiguous"), (True, "placed")):
        print(f"largest strength that costs nothing measurable, {where}: {study.free_strength(placed):g}")
    print(path)
    return 0


def table(experiment: Experiment) -> Table:
    """The figures of a data set; those without hop cost are the floor of the loss."""
    spread = f"spread of seeds without hop cost {experiment.spread(False):.4f}, placed {experiment.spread(True):.4f}"
    shown = Table(title=f"{experiment.name}, {experiment.dispatch} dispatch, {experiment.steps} steps; {spread}")
    for heading in ("router", "experts", "MB a step", "bytes", "held-out loss", "rise ± error", "by seed", "free"):
        shown.add_column(heading, justify="left" if heading in ("router", "experts") else "right")
    for strength in (*experiment.strengths, None):
        for placed in (False, True):
            rises = experiment.rises(strength, placed)
            size = experiment.bytes(strength, placed)
            shown.add_row(
                experiment.rival if strength is None else f"sparse OT, hop cost {strength:g}",
                "placed" if placed else "contiguous",
                f"{size / BYTES_PER_MB:.3f}",
                f"{size / experiment.bytes(0.0, False) - 1:+.1%}",
                f"{experiment.loss(strength, placed):.4f}",
                f"{fmean(rises):+.4f} ± {experiment.error(strength, placed):.4f}",
                " ".join(f"{rise:+.4f}" for rise in rises),
                "" if strength is None else "yes" if experiment.is_free(strength, placed) else "no",
            )
    return shown


def leaving_bytes(header: TraceHeader, record: CollectiveRecord) -> float:
    """Bytes that a rank must send to others in a collective.

    An all-to-all sends all but its own block, an all-gather a rank's part to every other, a reduce-scatter all but a
    rank's part of the sum, an all-reduce the two of them.
    """
    others = len(header.groups[record.group]) - 1
    match record.op:
        case "all_to_all":
            assert record.in_splits is not None
            return record.bytes_in - record.in_splits[header.groups[record.group].index(record.rank)]
        case "all_gather":
            return record.bytes_in * others
        case "reduce_scatter":
            return record.bytes_in * others / (others + 1)
        case "all_reduce":
            return 2 * record.bytes_in * others / (others + 1)
    raise ValueError(f"op: {record.op} is no collective of a layer; give a trace of training")


def layer_bytes(path: Path) -> float:
    """Bytes between ranks of dispatch, attention and routers in a step, mean of the recorded ones."""
    header, records = read(path)
    own = (r for r in records if r.phase != "optimizer" and (r.group == "expert" or r.layer is not None))
    return sum(leaving_bytes(header, record) for record in own) / len(header.steps)


def _runs(folder: Path, workload: Workload, steps: int, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Every strength and the rival, contiguous and placed, for each seed."""
    for seed in seeds:
        for strength in (*STRENGTHS, None):
            router = RIVAL if strength is None else SPARSE_OT.format(strength)
            settings = (f"run.seed={seed}", f"moe.dispatch={workload.dispatch}", router, *workload.settings)
            origin = "rival" if strength is None else "strength_0"
            contiguous = folder / f"seed_{seed}" / (origin if not strength else f"strength_{strength:g}")
            plan = {False: (), True: (f"moe.placement={folder / f'seed_{seed}' / f'{origin}.placement.json'}",)}
            for placed, extra in plan.items():
                run = contiguous.with_name(f"{contiguous.name}.placed") if placed else contiguous
                outcome = _outcome(run, workload.config, steps, (*settings, *extra))
                if not placed and not strength:
                    _place(run, contiguous.with_name(f"{origin}.placement.json"), workload.dispatch)
                yield {"strength": strength, "placed": placed, "seed": seed, **outcome}


def _outcome(run: Path, config: str, steps: int, settings: Sequence[str]) -> dict[str, float]:
    """Trains, unless that has been done, and reads loss and bytes."""
    more = (f"optim.steps={steps}", f"trace.steps={list(range(steps - RECORDED + 1, steps + 1))}")
    every = (f"checkpoint.every={steps}", f"evaluate.every={steps}")
    arguments = ["train", config, f"run.dir={run}", *QUIET, *more, *every, *settings]
    done = run / "arguments.json"
    if not done.exists() or json.loads(done.read_text(encoding="utf-8")) != arguments:
        shutil.rmtree(run, ignore_errors=True)
        ended = command(*arguments, ranks=RANKS)
        if ended.returncode:
            sys.exit(ended.stderr)
        shutil.rmtree(run / "checkpoints")
        done.write_text(json.dumps(arguments), encoding="utf-8")
    loss = read_metrics(run / "metrics.jsonl")[-1].values["held_out_loss"]
    size = layer_bytes(run / "traces" / "collectives.jsonl")
    print(f"{run.parent.name}/{run.name}: held-out loss {loss:.4f}, {size / BYTES_PER_MB:.3f} MB", flush=True)
    return {"held_out_loss": loss, "cross_rank_bytes": size}


def _place(run: Path, out: Path, dispatch: str) -> None:
    if not out.exists() or out.stat().st_mtime < (run / "arguments.json").stat().st_mtime:
        routing = run / "traces" / "routing.npz"
        shape = ["--nodes", "1", "--ranks-per-node", str(RANKS), "--objective", dispatch]
        with redirect_stdout(io.StringIO()):
            code = moe(["place", str(routing), *shape, "--out", str(out)])
        if code:
            sys.exit(f"{routing} cannot be placed")


if __name__ == "__main__":
    sys.exit(main())
