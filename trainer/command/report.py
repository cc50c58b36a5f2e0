"""trace and report: collectives of a run by formula, and one page about a run."""

from netsim.foundation.outputs import OutputFile, page_mark
from trainer.command.options import verb
from trainer.experiment.request.verbs import ReportRequest, TraceRequest


@verb(
    "trace",
    "write the collectives that one step of a run, or a drawing, would issue, by formula, for netsim to simulate",
    "python -m trainer trace configs/runs/dit_moe_64.yaml --world-size 64 --ranks-per-node 1 --out trace.jsonl",
    TraceRequest,
    "With --sampling '{kind: euler, steps: 20}' they are those of drawing: a call of the network is a micro step, and "
    "the samples of all ranks are collected after the last one. Averaged weights and tokens are float32 then.",
    outputs=lambda options: [(OutputFile("--out", ('"source":"formula"',)), options.out)],
    following="python -m netsim compare configs/scenarios/demo.yaml workload.path={out} --out {out}.simulated",
)
def trace(options: TraceRequest) -> int:
    from trainer.experiment.forecast.write import run

    return run(options)


@verb(
    "report",
    "write one self-contained page about a run, and what was placed and simulated for it",
    "python -m trainer report runs/demo --placed-run runs/demo_placed",
    ReportRequest,
    "What sample, steps, restore, edit, moe place, moe price and netsim compare wrote into the run's folder gets onto "
    "the page without options; what there is of another run is named and left out.",
    outputs=lambda options: [(OutputFile("--out", (page_mark("report"),)), options.page)],
    following="python -m trainer keys",
)
def report(options: ReportRequest) -> int:
    from trainer.experiment.report.run import run

    return run(options)
