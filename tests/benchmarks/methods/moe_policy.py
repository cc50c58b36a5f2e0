"""A policy with experts, with and without replay of their choices: python -m tests.benchmarks.methods.moe_policy

A mixture of experts on the 8 x 8 digits (configs/runs/digits_moe.yaml, sparse OT router, 600 steps, unless --base names
a run of it) learns to draw with more ink by GRPO: two ranks under torchrun, experts shared by both, two updates of
whatever was drawn. Its router balances a micro batch in training and has averaged potentials in evaluation, so that the
same examples visit other experts. With replay the loss passes visit the experts of the rollout, and the ratio of new to
old probability is exactly 1 where a cycle begins; without, it is not, and part of what is learned is the difference
between two ways of routing.

* ratio: the largest distance of a ratio from 1 at the first update of a cycle, over all cycles;
* beyond the clip: the share of choices at first updates whose gain is cut off, which should be none;
* reward: mean brightness of what is drawn with noise, in the first and in the last quarter of the run; held out: of
  what is drawn without noise in the end. Beside it the reward calls of all ranks and the KL of paths to the base.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from tests.benchmarks.methods.bars import Bar, show
from trainer.observe.metrics import read_metrics

ROOT = Path(__file__).parents[3]
CONFIG = str(ROOT / "configs" / "runs" / "digits_moe.yaml")
TASK = {"kind": "grpo", "reward": {"kind": "ink"}, "steps": 8, "group": 8, "updates": 2, "clip": 1e-4, "kl": 0.004}
WITH, WITHOUT = "replay", "no replay"
PROGRAM = {WITH: ("-m", "trainer"), WITHOUT: (str(Path(__file__).with_name("moe_policy_without_replay.py")),)}


def main() -> int:
    """Runs both and prints the table.

    Returns:
        0 if every bar is met.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="a finished run of configs/runs/digits_moe.yaml (default: train one)")
    parser.add_argument("--steps", type=int, default=40, help="updates, two a cycle (default: 40)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base = options.base
        if base is None:
            base = folder / "base"
            _torchrun(("-m", "trainer"), "train", CONFIG, "optim.steps=600", "trace.steps=[]", f"run.dir={base}")
        runs: dict[str, list[Mapping[str, float]]] = {name: [] for name in PROGRAM}
        for seed in options.seeds:
            for name, found in runs.items():
                found.append(_figures(_trained(name, base.resolve(), folder / f"{name} {seed}", options.steps, seed)))
                print(f"{name}, seed {seed}: {found[-1]}", flush=True)
    rows = {name: {key: [one[key] for one in found] for key in found[0]} for name, found in runs.items()}
    replayed = rows[WITH]
    gains = [end - begin for begin, end in zip(replayed["reward at first"], replayed["in the end"], strict=True)]
    bars = [
        Bar("largest distance from 1 of a ratio where a cycle begins, with replay", max(replayed["ratio"]), 0.0),
        Bar("the same without replay", min(rows[WITHOUT]["ratio"]), 1e-4, at_least=True),
        Bar("gain of reward with replay, smallest of the seeds", min(gains), 0.02, at_least=True),
    ]
    return show("GRPO of a mixture of experts on digits, two ranks", rows, bars)


def _trained(name: str, base: Path, run: Path, steps: int, seed: int) -> Path:
    document = {
        "run": {"dir": str(run), "seed": seed},
        "task": {**TASK, "base": str(base)},
        "optim": {"steps": steps, "global_batch": 16, "micro_batch": 8, "lr": 3e-4, "warmup_steps": 0},
        "parallel": {"expert": 2},
        "checkpoint": {"every": steps},
        "evaluate": {"every": steps},
        "sample": {"every": None},
        "trace": {"steps": []},
        "observe": {"log_every": 1, "tensorboard": False},
    }
    run.parent.mkdir(exist_ok=True)
    file = run.with_suffix(".json")  # YAML
    file.write_text(json.dumps(document))
    _torchrun(PROGRAM[name], "train", str(file))
    return run


def _torchrun(program: tuple[str, ...], *words: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *program, *words]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    subprocess.run(command, cwd=ROOT, env=variables, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _figures(run: Path) -> Mapping[str, float]:
    records = [record.values for record in read_metrics(run / "metrics.jsonl")]
    first, quarter = records[:: TASK["updates"]], max(1, len(records) // 4)
    return {
        "ratio": max(values["ratio_deviation"] for values in first),
        "beyond the clip": fmean(values["clipped_share"] for values in first),
        "reward at first": fmean(values["reward"] for values in records[:quarter]),
        "in the end": fmean(values["reward"] for values in records[-quarter:]),
        "held out": records[-1]["held_out_reward"],
        "reward calls": records[-1]["reward_calls"],
        "path KL": records[-1]["path_kl"],
    }


if __name__ == "__main__":
    sys.exit(main())
