"""trace and report: collectives of a run by formula, and one page about a run."""

from pathlib import Path
from typing import Annotated

from netsim.foundation.command import WORD, Either
from netsim.foundation.outputs import OutputFile, page_mark
from trainer.command.options import Configured, OfRuns, request_of, verb
from trainer.experiment.report.request import PAGE, ReportRequest


class Trace(Configured):
    """Options of trace."""

    world_size: Annotated[int, "W"]
    """ranks of the run"""
    ranks_per_node: Annotated[int, "R"] = 8
    """ranks on one node (default: 8)"""
    steps: Annotated[str | None, "N,N"] = None
    """optimiser steps to write (default: 1); of steps that share what a task collects only the first has rollouts,
    such as 1 of 1,2 with task.updates 2"""
    sampling: Annotated[str | None, "SAMPLER", "?"] = None
    """the collectives of drawing instead of those of a training step: by this sampler, as YAML, or by the run's own
    sample.sampler"""
    examples: Annotated[int | None, "N"] = None
    """with --sampling: examples that each data rank draws (default: as many as in a training step's pass)"""
    guidance: Annotated[float | None, "G"] = None
    """with --sampling: scale of classifier-free guidance; any but 0 and 1 doubles the rows of each call (default:
    the run's sample.guidance)"""
    gap_ns: Annotated[int | None, "N", Either("x")] = None
    """compute before each collective in ns (default: unknown)"""
    times: Annotated[Path | None, "JSONL", Either("x")] = None
    """take the mean compute by phase, operation and layer from a recording; rollouts that it lacks take that of
    forward passes, in the ratio of their tokens"""
    work: bool = False
    """say what is computed before each collective, operations and bytes of memory, from which python -m netsim
    compare --device h100 computes how long it takes; version 3 of the format"""
    out: Annotated[Path, "JSONL"]
    """the trace to write"""


@verb(
    "trace",
    "write the collectives that one step of a run, or a drawing, would issue, by formula, for netsim to simulate",
    "python -m trainer trace configs/runs/dit_moe_64.yaml --world-size 64 --ranks-per-node 1 --out trace.jsonl",
    Trace,
    "With --sampling '{kind: euler, steps: 20}' they are those of drawing: a call of the network is a micro step, and "
    "the samples of all ranks are collected after the last one. Averaged weights and tokens are float32 then.",
    outputs=lambda options: [(OutputFile("--out", ('"source":"formula"',)), options.out)],
    following="python -m netsim compare configs/scenarios/demo.yaml workload.path={out} --out {out}.simulated",
)
def trace(options: Trace) -> int:
    from trainer.experiment.forecast.write import TraceRequest, run

    return run(request_of(TraceRequest, options))


class Report(OfRuns):
    """Options of report."""

    run_dir: Annotated[Path, WORD]
    """folder of the run"""
    quality: Annotated[Path | None, "JSON"] = None
    """what sample --quality wrote (default: quality.json in the run's folder, where there is one)"""
    steps: Annotated[Path | None, "JSON"] = None
    """what steps wrote for this run (default: steps.json in the run's folder, where there is one)"""
    drawing: Annotated[Path | None, "DIR"] = None
    """collectives.jsonl of sample --trace under torchrun, and formula.jsonl of trace --sampling (default: drawing
    in the run's folder, where there is one)"""
    restored: Annotated[Path | None, "DIR"] = None
    """what restore wrote for this run (default: restored in the run's folder, where there is one)"""
    edited: Annotated[Path | None, "DIR"] = None
    """what edit wrote for this run (default: edited in the run's folder, where there is one)"""
    policy: Annotated[Path | None, "DIR"] = None
    """a run that goes on from this one and learns from a reward (task.base)"""
    placement: Annotated[Path | None, "JSON"] = None
    """what moe place wrote (default: placement.json in the run's folder, where there is one)"""
    routing: Annotated[Path | None, "NPZ"] = None
    """routing trace to measure the placement on (default: the run's own)"""
    unplaced_run: Annotated[Path | None, "DIR"] = None
    """a continuation of the run with its experts where they were (default: the run itself)"""
    placed_run: Annotated[Path | None, "DIR"] = None
    """a continuation of the run under the placement, compared with the former step by step"""
    price: Annotated[Path | None, "DIR"] = None
    """what moe price wrote for this run and the placement (default: price in the run's folder, where there is
    one)"""
    decoding: Annotated[Path | None, "DIR"] = None
    """contiguous/ and placed/, each written by generate --record under torchrun"""
    simulation: Annotated[Path | None, "DIR"] = None
    """what netsim compare wrote for a trace of this run, or a replay of it (default: simulation in the run's
    folder, where there is one)"""
    other_simulation: Annotated[Path | None, "DIR"] = None
    """what netsim compare wrote for other traffic; the page says so (default: netsim in the run's folder, where
    there is one)"""
    comparison: Annotated[Path | None, "DIR"] = None
    """what compare wrote (default: comparison in the run's folder, where there is one)"""
    memory: bool = False
    """also show the memory of a rank, by formula; takes some seconds"""
    out: Annotated[Path | None, "HTML"] = None
    """the page to write (default: report.html in the run's folder)"""


@verb(
    "report",
    "write one self-contained page about a run, and what was placed and simulated for it",
    "python -m trainer report runs/demo --placed-run runs/demo_placed",
    Report,
    "What sample, steps, restore, edit, moe place, moe price and netsim compare wrote into the run's folder gets onto "
    "the page without options; what there is of another run is named and left out.",
    outputs=lambda options: [(OutputFile("--out", (page_mark("report"),)), options.out or options.run_dir / PAGE)],
    following="python -m trainer keys",
)
def report(options: Report) -> int:
    from trainer.experiment.report.run import run

    return run(request_of(ReportRequest, options))
