"""report: one page about a run."""

import argparse
from pathlib import Path

from netsim.foundation.outputs import OutputFile, page_mark
from trainer.command.options import request_of
from trainer.command.verb import Verb
from trainer.experiment.report.request import FOUND, PAGE, ReportRequest


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    for option, metavar, text in (
        ("--quality", "JSON", "what sample --quality wrote"),
        ("--steps", "JSON", "what steps wrote for this run"),
        (
            "--drawing",
            "DIR",
            "collectives.jsonl of sample --trace under torchrun, and formula.jsonl of trace --sampling",
        ),
        ("--restored", "DIR", "what restore wrote for this run"),
        ("--edited", "DIR", "what edit wrote for this run"),
        ("--policy", "DIR", "a run that goes on from this one and learns from a reward (task.base)"),
        ("--placement", "JSON", "what moe place wrote"),
        ("--routing", "NPZ", "routing trace to measure the placement on (default: the run's own)"),
        (
            "--unplaced-run",
            "DIR",
            "a continuation of the run with its experts where they were (default: the run itself)",
        ),
        ("--placed-run", "DIR", "a continuation of the run under the placement, compared with the former step by step"),
        ("--price", "DIR", "what moe price wrote for this run and the placement"),
        ("--decoding", "DIR", "contiguous/ and placed/, each written by generate --record under torchrun"),
        ("--simulation", "DIR", "what netsim compare wrote for a trace of this run, or a replay of it"),
        (
            "--other-simulation",
            "DIR",
            "what netsim compare wrote for other traffic; the page says so",
        ),
        ("--comparison", "DIR", "what compare wrote"),
        ("--routing-study", "JSON", "what tests.benchmarks.placement_aware_routing wrote: hop costs of the router"),
    ):
        place = FOUND.get(option.removeprefix("--").replace("-", "_"))
        default = "" if place is None else f" (default: {place[0]} in the run's folder, where there is one)"
        parser.add_argument(option, type=Path, metavar=metavar, help=text + default)
    parser.add_argument("--memory", action="store_true", help="tell the memory of a rank, by formula; some seconds")
    parser.add_argument(
        "--out", type=Path, metavar="HTML", help="the page to write (default: report.html in the run's folder)"
    )


def _run(options: argparse.Namespace) -> int:
    from trainer.experiment.report.run import run

    return run(request_of(ReportRequest, options))


REPORT = Verb(
    "report",
    "write one self-contained page about a run, and what was placed and simulated for it",
    "python -m trainer report runs/demo --placed-run runs/demo_placed",
    _add_arguments,
    _run,
    "What sample, steps, restore, edit, moe place, moe price and netsim compare wrote into the run's folder gets onto "
    "the page without options; what there is of another run is named and left out.",
    outputs=lambda options: [(OutputFile("--out", (page_mark("report"),)), options.out or options.run_dir / PAGE)],
)
