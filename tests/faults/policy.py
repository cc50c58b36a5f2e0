"""A policy that is killed again and again, also while it draws and within the steps that share what was drawn.

``python -m tests.faults.policy --task grpo --kills 20`` trains a small network on digits, lets a policy go on from it
on two ranks, and does so once more while it is killed and started again. Parameters, optimiser state, moving average
and figures must end equal, bit for bit. Kills take turns: while `collect` asks the reward, within a cycle, anywhere.
"""

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from pydantic import BaseModel
from torch import Tensor

from tests.faults.cluster import ROOT
from tests.faults.forked_ranks import ForkedRanks
from tests.faults.verdict import differences
from trainer.flow import Condition
from trainer.flow.reward import Reward
from trainer.observe.metrics import last_step

RANKS, BASE_STEPS, SAVE_EVERY, STEPS_OF_A_KILL = 2, 6, 4, 2
SECONDS_OF_A_START = 240.0
STARTS = 3
"""How often ranks that do not find each other, on a machine that is busy, are started again."""
STOPPED = 75
"""How a rank ends that was stopped and has saved."""
DURING, WITHIN, ANYWHERE = "while it draws", "within a cycle", "anywhere"
_PAUSE_S = 0.005
_BEGINS = re.compile(r": (?:resumes after step (\d+)|starts); ")
_SMALL = (
    *("model.num_layers=2", "model.hidden=32", "model.dropout=0", "sample.every=null", "trace.steps=[]"),
    *("optim.global_batch=8", "optim.micro_batch=2", "evaluate.every=20", "observe.log_every=1"),
    *("sample.guidance=1", "observe.port=0"),
)
_EXPERTS = (*_SMALL, "moe.num_experts=4", "moe.expert_hidden=32", f"parallel.expert={RANKS}")
_DENSE = (*_SMALL, "moe=null", "parallel.expert=1")


class Case(NamedTuple):
    """What is killed.

    Args:
        network: settings of the network and of the loop.
        cycle: steps that share what was drawn.
        task: its settings, without base and reward.
    """

    network: tuple[str, ...]
    cycle: int
    task: dict[str, Any]


CASES = {
    "grpo": Case(_EXPERTS, 2, {"steps": 4, "group": 4, "updates": 2, "clip": 1e-3}),
    "adjoint_matching": Case(_DENSE, 1, {"steps": 6, "nodes": 3, "reward_weight": 10.0}),
}


class Kill(NamedTuple):
    """One that happened.

    Args:
        after: the last step before it.
        drawing: whether it hit amid `collect`.
        within: whether it hit between two steps that share what was drawn.
        what: was done.
        resumed: the step that this start had gone on from.
    """

    after: int
    drawing: bool
    within: bool
    what: str
    resumed: int


class Lingering(Reward):
    """The brightness of an image, which takes its time and leaves a mark while it does."""

    class Config(BaseModel):
        """Settings."""

        mark: Path
        seconds: float = 0.15

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        """See `Reward`."""
        self._config.mark.touch()
        time.sleep(self._config.seconds)
        self._config.mark.unlink(missing_ok=True)
        return examples.flatten(1).mean(1)


def main() -> int:
    """Runs both and compares them.

    Returns:
        0 if they are equal, 1 if not.
    """
    parser = argparse.ArgumentParser(prog="faults.policy", description=__doc__)
    parser.add_argument("--task", choices=CASES, default="grpo", help="(default: grpo)")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="how often (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the runs and kills.json there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.out or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        kills, lost, complaints = campaign(folder, options.task, options.kills, options.seed)
        told = {"kills": [kill._asdict() for kill in kills], "steps_lost": lost, "complaints": complaints}
        (folder / "kills.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    drawing, within = (sum(getattr(kill, name) for kill in kills) for name in ("drawing", "within"))
    print(f"{options.task}: {len(kills)} kills, {drawing} amid drawing, {within} within a cycle; {lost} steps lost")
    print("; ".join(complaints) or "equal, bit for bit")
    return int(bool(complaints))


def campaign(folder: Path, task: str, kills: int, seed: int) -> tuple[list[Kill], int, list[str]]:
    """Trains a base, an undisturbed run and a killed one.

    Args:
        folder: of all three.
        task: one of `CASES`.
        kills: how many.
        seed: of the draws.

    Returns:
        What happened, steps that had to be taken again, and what is not as it must be.
    """
    case, last = CASES[task], -(-STEPS_OF_A_KILL * kills // SAVE_EVERY) * SAVE_EVERY + 3 * SAVE_EVERY
    config, base = str(ROOT / "configs" / "runs" / "digits_moe.yaml"), folder / "base"

    def written(run: Path) -> list[str]:
        reward = {"class": "tests.faults.policy:Lingering", "mark": f"{run}.mark"}
        settings = json.dumps({"kind": task, "base": str(base), "reward": reward, **case.task})
        steps = (f"optim.steps={last}", f"checkpoint.every={SAVE_EVERY}", "checkpoint.keep=3")
        return ["train", config, *case.network, *steps, f"task={settings}", f"run.dir={run}"]

    straight, killed = folder / "undisturbed", folder / "killed"
    _through(["train", config, *case.network, f"optim.steps={BASE_STEPS}", f"run.dir={base}"])
    _through(written(straight))
    print(f"undisturbed: {last} steps", flush=True)
    draw = Random(f"{seed}/{task}")
    targets = sorted(draw.choices(range(last - 2 * SAVE_EVERY), k=kills))
    happened: list[Kill] = []
    for number, target in enumerate(targets):
        kill = _killed(killed, written(killed), target, case.cycle, (DURING, WITHIN, ANYWHERE)[number % 3], draw)
        if kill is None:
            break
        happened.append(kill)
        print(f"kill {len(happened)}: {kill}", flush=True)
    complaints = [] if len(happened) == kills else [f"{len(happened)} of {kills} kills happened"]
    if not complaints:
        _through(written(killed))
    lost = sum(max(0, one.after - other.resumed) for one, other in pairwise(happened))
    return happened, lost, [*complaints, *differences(straight, killed, last)]


def _through(arguments: list[str]) -> None:
    """Trains to the end."""
    for _ in range(STARTS):
        with ForkedRanks(arguments, RANKS) as ranks:
            while ranks.running:
                time.sleep(_PAUSE_S)
            if not any(ranks.codes):
                return
            said = ranks.said()
        if _BEGINS.search(said):
            break
    raise RuntimeError(f"failed by itself: {said}")


def _killed(run: Path, arguments: list[str], target: int, cycle: int, when: str, draw: Random) -> Kill | None:
    """Trains until a kill after the target step, or to the end: None."""
    metrics, mark = run / "metrics.jsonl", Path(f"{run}.mark")
    mark.unlink(missing_ok=True)
    deadline = time.monotonic() + SECONDS_OF_A_START
    with ForkedRanks(arguments, RANKS) as ranks:
        while ranks.running:
            begun = _BEGINS.search(ranks.said())
            step = last_step(metrics) if begun and metrics.exists() else 0
            if begun and step >= target and _is_time(when, step, cycle, mark):
                time.sleep(draw.uniform(0.0, 0.1 if when == DURING else 0.5))
                if not ranks.running:
                    return None
                after, drawing = last_step(metrics) if metrics.exists() else 0, mark.exists()
                return Kill(after, drawing, after % cycle > 0, _strike(ranks, draw), int(begun[1] or 0))
            if time.monotonic() > deadline:
                raise RuntimeError(f"does not end in time: {ranks.said()}")
            time.sleep(_PAUSE_S)
        if any(ranks.codes):
            raise RuntimeError(f"failed by itself: {ranks.said()}")
    return None


def _is_time(when: str, step: int, cycle: int, mark: Path) -> bool:
    if when == DURING:
        return mark.exists()
    return when == ANYWHERE or cycle == 1 or step % cycle > 0


def _strike(ranks: ForkedRanks, draw: Random) -> str:
    """Kills one rank, and the other later as an agent does; or all at once; or tells all to stop."""
    what = draw.choice(("one rank", "one rank", "all ranks", "stopped"))
    if what == "stopped":
        ranks.send(signal.SIGTERM)
        ranks.wait(SECONDS_OF_A_START)
        if any(code not in (0, STOPPED) for code in ranks.codes):
            raise RuntimeError(f"stopped, ends with {ranks.codes}: {ranks.said()}")
        return f"stopped, ended with {ranks.codes[0]}"
    if what == "one rank":
        number = draw.randrange(RANKS)
        ranks.send(signal.SIGKILL, [number])
        time.sleep(draw.uniform(0.0, 0.2))
        what = f"rank {number} killed"
    ranks.end()
    return what


if __name__ == "__main__":
    sys.exit(main())
