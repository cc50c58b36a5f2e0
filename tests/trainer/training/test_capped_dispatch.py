"""Training in capped dispatch: as in home dispatch, resumed bit for bit, and with experts that move in between."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe.routing_trace import RoutingTrace
from tests.forked import command
from tests.ranks import run_ranks
from tests.trainer.commands import DIGITS
from tests.trainer.runs import assert_equal_folders, timeless, torchrun
from tests.trainer.training.migration.migrated import Run, configuration, shuffled

SETTINGS = (
    "model.num_layers=2",
    "model.hidden=32",
    "moe.expert_hidden=32",
    "moe.top_k=2",
    "optim={steps: 8, global_batch: 32}",
    "checkpoint.every=4",
    "evaluate.every=4",
    "sample.every=null",
    "observe.log_every=1",
    "trace.steps=[2, 3, 6, 7]",
)


@pytest.mark.slow
def test_digits_train_as_in_home_dispatch_and_resume_bit_for_bit(tmp_path: Path) -> None:
    for dispatch in ("home", "capped"):
        settings = (DIGITS, *SETTINGS, f"moe.dispatch={dispatch}", f"run.dir={tmp_path / dispatch}")
        run = command("train", *settings, ranks=2)
        assert run.returncode == 0, run.stderr
    again = ("train", DIGITS, *SETTINGS, "moe.dispatch=capped", f"run.dir={tmp_path / 'resumed'}")
    killed = torchrun("tests/trainer/training/killed_run.py", *again, KILL_RANK="1", KILL_STEP="6")
    assert killed.returncode == 1
    resumed = command(*again, ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 4" in resumed.stderr
    for step in ("step_00000004", "step_00000008"):
        assert_equal_folders(tmp_path / "capped" / "checkpoints" / step, tmp_path / "resumed" / "checkpoints" / step)
    metrics = {name: timeless(tmp_path / name / "metrics.jsonl") for name in ("home", "capped", "resumed")}
    assert metrics["resumed"] == metrics["capped"]
    for (step, home), (_, capped) in zip(metrics["home"], metrics["capped"], strict=True):
        for name in ("loss", "rank_load_max_over_mean", "expert_load_max_over_mean", "crossnode_token_fraction"):
            assert capped[name] == pytest.approx(home[name], rel=1e-4), (step, name)
    routes = {name: RoutingTrace.read(tmp_path / name / "traces" / "routing.npz") for name in ("home", "capped")}
    assert (routes["capped"].header.dispatch, routes["capped"].header.cap) == ("capped", 1.25)
    np.testing.assert_array_equal(routes["capped"].expert_ids[:100], routes["home"].expert_ids[:100])


def moved_and_straight(_rank: int, world_size: int) -> dict[str, Any]:
    """A run whose experts are moved twice by hand, and the same run without."""
    from megatron.core import parallel_state

    parallel_state.initialize_model_parallel(expert_model_parallel_size=2)
    sections = configuration().model_dump()
    sections["moe"] |= {"dispatch": "capped", "router": {"kind": "sparse_ot"}}
    config = type(configuration()).model_validate(sections)
    straight, moved = Run(config, world_size), Run(config, world_size)
    losses = []
    for step in range(1, 5):
        losses.append((straight.step(step), moved.step(step)))
        if step in (2, 3):
            assert moved.place(shuffled(step)) is None
    return {"losses": losses, "straight": straight.experts(), "moved": moved.experts()}


def test_experts_that_move_change_nothing() -> None:
    ranks = run_ranks(moved_and_straight, 2)
    straight, moved = (
        {key: value for of_rank in ranks for key, value in of_rank[name].items()} for name in ("straight", "moved")
    )
    assert straight.keys() == moved.keys()
    for of_rank in ranks:
        for one, other in of_rank["losses"]:
            assert one == other
    assert straight == moved
