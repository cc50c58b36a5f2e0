"""A run that goes on under a placement of its own trace sends less, by exactly what the replay predicted.

Both continuations begin with one checkpoint and learn from the same examples. With two experts a token their losses
are the same to the last bit: wherever the two are, one addition joins their outputs, and addition of two numbers does
not depend on their order; rows reach an expert in the order of their sources. (From three experts on, sums over ranks
associate differently.) The gradient is not clipped: its norm adds up the experts rank by rank.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from moe.__main__ import main as moe
from moe.collective_trace import CollectiveRecord, TraceHeader, read
from moe.placement.placement import Dispatch, Placement
from moe.replay import replay
from moe.routing_trace import RoutingTrace
from tests.forked import command
from tests.trainer.commands import DIGITS

PLACED_AFTER, RECORDED = 10, (11, 12)
SETTINGS = (
    "model.hidden=32",
    "model.num_layers=2",
    "moe.expert_hidden=32",
    "moe.top_k=2",
    "moe.router={kind: top_k, aux_loss: 0.01}",
    "optim.global_batch=32",
    "optim.clip_norm=null",
    "evaluate.every=null",
    "sample.every=null",
    "observe={log_every: 1, tensorboard: false}",
    f"checkpoint.every={PLACED_AFTER}",
)
CASES = [(2, 1, "copies"), (4, 2, "copies"), (4, 2, "hierarchical")]
"""Ranks, those on one node, dispatch mode."""


def train(folder: Path, ranks: int, *settings: str) -> None:
    result = command("train", DIGITS, *SETTINGS, *settings, f"run.dir={folder}", ranks=ranks)
    assert result.returncode == 0, result.stderr


def bytes_between(header: TraceHeader, records: list[CollectiveRecord]) -> int:
    """Bytes of token messages that leave their rank."""
    sent = 0
    for record in records:
        if record.in_splits is not None:
            sent += record.bytes_in - record.in_splits[header.groups[record.group].index(record.rank)]
    return sent


def timeless(records: list[CollectiveRecord]) -> list[CollectiveRecord]:
    return [replace(record, gap_ns=None, t_issue_ns=None, t_done_ns=None) for record in records]


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["step"] in RECORDED]


@pytest.mark.slow  # the suite has the first case in test_matching, whose runs are also shown
@pytest.mark.parametrize(("ranks", "ranks_per_node", "dispatch"), CASES)
def test_a_placed_continuation_sends_what_the_replay_predicts(
    ranks: int, ranks_per_node: int, dispatch: Dispatch, tmp_path: Path
) -> None:
    division = f"parallel.expert={ranks}", f"trace.ranks_per_node={ranks_per_node}", f"moe.dispatch={dispatch}"
    first, placement = tmp_path / "first", tmp_path / "placement.json"
    train(first, ranks, *division, f"optim.steps={PLACED_AFTER}", f"trace.steps=[{PLACED_AFTER - 1},{PLACED_AFTER}]")
    nodes = ["--nodes", str(ranks // ranks_per_node), "--ranks-per-node", str(ranks_per_node)]
    routing = str(first / "traces" / "routing.npz")
    assert moe(["place", routing, *nodes, "--objective", dispatch, "--out", str(placement)]) == 0
    for name, settings in (("unplaced", ()), ("placed", (f"moe.placement={placement}",))):
        shutil.copytree(first / "checkpoints", tmp_path / name / "checkpoints")
        further = f"optim.steps={RECORDED[-1]}", f"trace.steps={list(RECORDED)}"
        train(tmp_path / name, ranks, *division, *further, *settings)

    header, records = read(tmp_path / "unplaced" / "traces" / "collectives.jsonl")
    of_unplaced = RoutingTrace.read(tmp_path / "unplaced" / "traces" / "routing.npz")
    predicted_header, predicted = replay(header, records, of_unplaced, Placement.read(placement))
    placed_header, placed = read(tmp_path / "placed" / "traces" / "collectives.jsonl")
    saved = bytes_between(header, records) - bytes_between(placed_header, placed)
    assert saved == bytes_between(header, records) - bytes_between(predicted_header, predicted)
    made_for, of_first = read(first / "traces" / "collectives.jsonl"), RoutingTrace.read(Path(routing))
    assert bytes_between(*replay(*made_for, of_first, Placement.read(placement))) < bytes_between(*made_for)
    assert timeless(predicted) == timeless(placed)
    assert losses(tmp_path / "placed") == losses(tmp_path / "unplaced")
