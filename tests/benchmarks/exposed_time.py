"""Time that collectives add to a step, by a recorded trace and by formula: python -m tests.benchmarks.exposed_time

A dense DiT takes some steps on two ranks of gloo under torchrun for each engine. What it records is simulated on the
fabric of configs/scenarios/two_nodes.yaml, and so is its formula trace, whose gaps of computation are the means of the
recording, equal on both ranks. Exposed is a simulated step without the computation of the rank that arrives last at
each collective. `recorded` has its own gaps: the ranks of a busy machine meet unevenly, which costs time; `even` is the
recording with the gaps of the formula, and the difference is to it: what they issue and where they wait. `alone` is the
formula where every collective is waited for at once; what it has more, overlap hides. The exit code is 1 if a
difference is above 10 %.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moe.collective_trace import CollectiveRecord, read, write
from tests.forked import ROOT
from trainer.config.file import load_config
from trainer.config.rules.plan import plan_layout
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.trace import formula, recorded_gaps

CONFIG = ROOT / "configs" / "runs" / "digits_moe.yaml"
SCENARIO = ROOT / "configs" / "scenarios" / "two_nodes.yaml"
STEPS = (5, 6, 7, 8)
RUN = [
    *("moe=null", "parallel.expert=1", "model.hidden=256", "model.num_layers=4", "optim.global_batch=8"),
    *("evaluate.every=null", "sample.every=null", "checkpoint.every=1000000", "observe.tensorboard=false"),
    *(f"optim.steps={STEPS[-1]}", "optim.warmup_steps=0", f"trace.steps={[*STEPS]}"),
]
ENGINES = {
    "ZeRO 1": ("engine.zero_stage=1",),
    "ZeRO 3": ("engine.zero_stage=3",),
    "ZeRO 3, small buckets": ("engine.zero_stage=3", "engine.bucket_elements=200000"),
    "FSDP2": ("engine={kind: fsdp}",),
}
TOLERANCE = 0.1


def main() -> int:
    """Records, simulates and prints a line for each engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    table = Table(title="Exposed time of a step, simulated", title_justify="left")
    for name in ("engine", "computation", "recorded", "even", "formula", "difference", "alone"):
        table.add_column(name, justify="left" if name == "engine" else "right")
    far = 0
    for name in parser.parse_args().engines:
        with tempfile.TemporaryDirectory() as folder:
            compute_s, exposed_s = _exposed(Path(folder), [*RUN, *ENGINES[name]])
        difference = exposed_s["formula"] / exposed_s["even"] - 1
        far += abs(difference) > TOLERANCE
        shown = {kind: f"{1e3 * seconds:,.1f} ms" for kind, seconds in {"computation": compute_s, **exposed_s}.items()}
        alone = shown.pop("alone")
        table.add_row(name, *shown.values(), f"{difference:+.1%}", alone)
    Console(width=120, highlight=False).print(table)
    return 1 if far else 0


def _exposed(folder: Path, overrides: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds of a step: the recorded computation, and what each trace exposes."""
    overrides = [*overrides, f"run.dir={folder / 'run'}"]
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    _python(*launch, "-m", "trainer", "train", str(CONFIG), *overrides)
    header, records = read(folder / "run" / "traces" / "collectives.jsonl")
    config = load_config(CONFIG, overrides)
    spec = trace_spec(config, plan_layout(config, 2), ranks_per_node=1, steps=header.steps)
    computed_header, lazy = formula(spec, recorded_gaps(records))
    computed = list(lazy)
    alone = [replace(record, asynchronous=False, wait_seq=None) for record in computed]
    even = [replace(record, gap_ns=like.gap_ns) for record, like in zip(records, computed, strict=True)]
    traces = {"recorded": records, "even": even, "formula": computed, "alone": alone}
    exposed_s: dict[str, float] = {}
    for name, wanted in traces.items():
        path = folder / f"{name}.jsonl"
        write(path, header if wanted in (records, even) else computed_header, wanted)
        _python("-m", "netsim", "compare", str(SCENARIO), f"workload.path={path}", "--out", str(folder / name))
        (run,) = json.loads((folder / name / "results.json").read_text())["runs"]
        exposed_s[name] = (run["completion_ns"] / 1e9 - _computation_s(wanted)) / len(STEPS)
    return _computation_s(records) / len(STEPS), exposed_s


def _computation_s(records: list[CollectiveRecord]) -> float:
    """Computation between collectives at the rank that arrives last, since the others wait for it and not for bytes."""
    slowest = Counter[int]()
    for record in records:
        slowest[record.seq] = max(slowest[record.seq], record.gap_ns or 0)
    return slowest.total() / 1e9


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    raise SystemExit(main())
