"""Runs that learn from a mixture: two ranks train as one, a resumed run is the straight one, sources have losses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import trainer.data
import trainer.task
from tests.forked import command
from tests.ranks import run_ranks
from tests.trainer.parallel_runs import Figures
from tests.trainer.runs import assert_equal_folders, timeless, torchrun
from trainer.config.run import RunConfig

STEPS, SAVED, BATCH = 4, 2, 8
SOURCES = {
    "moons": {"kind": "toy", "name": "moons", "num_examples": 13, "held_out": 5},
    "rings": {"kind": "toy", "name": "rings", "held_out": 4},
    "rare": {"kind": "toy", "name": "spirals", "num_examples": 5, "held_out": 3},
}
SHARES = {"moons": 0.55, "rings": 0.41, "rare": 0.04}
"""The last is in few of the batches."""
ENGINES: dict[str, dict[str, Any]] = {"ZeRO 1": {"zero_stage": 1}, "FSDP2": {"kind": "fsdp"}}
FLOWS: dict[str, dict[str, Any]] = {
    "": {},
    "weights": {"coupling": {"kind": "gibbs_weighted", "epsilon": 1.0}},
    "pairs of several ranks": {"coupling": {"kind": "assignment", "scope": "global_batch"}},
    "a loss of two terms": {"objective": {"kind": "regression", "monge_gap": {"weight": 0.5}}},
}
Found = dict[str, tuple[list[dict[str, float]], list[tuple[int, int]], dict[str, Tensor]]]
"""Figures of the steps, ids and sources of every example in the order of positions on this rank, final weights."""


def config(folder: Path, engine: dict[str, Any], flow: dict[str, Any]) -> RunConfig:
    document = {
        "run": {"dir": folder},
        "model": {"kind": "mlp", "hidden": 16, "num_layers": 1, "dropout": 0.1},
        "data": {"kind": "mixture", "sources": SOURCES, "shares": SHARES},
        "flow": flow,
        "optim": {"steps": STEPS, "global_batch": BATCH, "micro_batch": 2, "lr": 1e-2, "ema_decay": 0.5},
        "engine": engine,
        "checkpoint": {"every": SAVED, "keep": 9},
        "observe": {"log_every": 1, "tensorboard": False},
        "evaluate": {"every": STEPS},
        "sample": {"kind": "points", "every": None},
    }
    return RunConfig.model_validate(document)


def train(rank: int, world_size: int, run: RunConfig, resumes: Path | None = None) -> tuple[Any, ...]:
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.training.assembly import assembled
    from trainer.training.loop import train

    layout = plan_layout(run, world_size)
    divide_ranks(layout.expert_parallel, layout.tensor_parallel)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    dataset, figures = trainer.data.build(run.data, run.source), Figures()
    training = assembled(run, layout, launch, trainer.task.build(run), dataset, [figures], resumes)
    seen: list[tuple[int, int]] = []
    read = training.bad_examples.take

    def noted(step: int, batch: trainer.data.Batch) -> trainer.data.Batch:
        assert batch.sources is not None
        seen.extend(zip(batch.ids.tolist(), batch.sources.tolist(), strict=True))
        return read(step, batch)

    training.bad_examples.take = noted
    train(training)
    unite_ranks()
    weights = load_file(run.run.dir / "checkpoints" / f"step_{STEPS:08d}" / "ema.safetensors")
    return figures.values, seen[: STEPS * BATCH // world_size], weights


def train_all(rank: int, world_size: int, folder: str, names: list[tuple[str, str]]) -> Found:
    found: Found = {}
    for engine, flow in names:
        place = Path(folder) / f"{world_size} {engine} {flow}"
        found[f"{engine} {flow}"] = train(rank, world_size, config(place, ENGINES[engine], FLOWS[flow]))
        if world_size > 1:
            again = config(place.with_suffix(".resumed"), ENGINES[engine], FLOWS[flow])
            found[f"{engine} {flow} resumed"] = train(
                rank, world_size, again, place / "checkpoints" / f"step_{SAVED:08d}"
            )
    return found


FAST = [("ZeRO 1", "")]
SLOW = [(engine, flow) for engine in ENGINES for flow in FLOWS if (engine, flow) not in FAST]


@pytest.mark.parametrize("names", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["fast", "all"])
def test_two_ranks_train_as_one_and_a_resumed_run_as_the_straight_one(
    names: list[tuple[str, str]], tmp_path: Path
) -> None:
    (alone,) = run_ranks(train_all, 1, str(tmp_path), names)
    divided = run_ranks(train_all, 2, str(tmp_path), names)
    for name in (f"{engine} {flow}" for engine, flow in names):
        expected, dealt, weights = alone[name]
        assert_losses_are_of_their_sources(expected, [source for _, source in dealt], weighted="weights" in name)
        for rank, found in enumerate(divided):
            figures, own, theirs = found[name]
            positions = torch.arange(STEPS * BATCH).reshape(STEPS, 2, BATCH // 2)[:, rank].flatten().tolist()
            assert own == [dealt[position] for position in positions]
            for values, truth in zip(figures, expected, strict=True):
                assert values == pytest.approx(truth, rel=1e-5)
            for parameter, value in theirs.items():
                torch.testing.assert_close(value, weights[parameter], rtol=0, atol=1e-5)
            resumed, _, again = found[f"{name} resumed"]
            assert resumed == figures[SAVED:]
            assert all(torch.equal(value, theirs[parameter]) for parameter, value in again.items())


def assert_losses_are_of_their_sources(figures: list[dict[str, float]], sources: list[int], *, weighted: bool) -> None:
    """Their means by the number of examples are the loss of the batch; a source that is not in it has none."""
    for step, values in enumerate(figures):
        counts = [sources[step * BATCH : (step + 1) * BATCH].count(number) for number in range(len(SOURCES))]
        assert [f"loss_{name}" in values for name in SOURCES] == [count > 0 for count in counts]
        if not weighted:
            total = sum(values[f"loss_{name}"] * count for name, count in zip(SOURCES, counts, strict=True) if count)
            assert total / BATCH == pytest.approx(values["loss"], rel=1e-6)
    held_out = {name: SOURCES[name]["held_out"] for name in SOURCES}
    total = sum(figures[-1][f"held_out_loss_{name}"] * count for name, count in held_out.items())
    assert weighted or total / sum(held_out.values()) == pytest.approx(figures[-1]["held_out_loss"], rel=1e-6)


@pytest.mark.slow
def test_a_rank_that_is_killed_in_mid_epoch_ends_as_the_straight_run(tmp_path: Path) -> None:
    settings = (
        "configs/runs/digits_mixture.yaml",
        "model.hidden=16",
        "model.num_layers=1",
        "optim.steps=12",
        "optim.micro_batch=16",
        "checkpoint={every: 4, keep: 9}",
        "evaluate.every=6",
        "sample.every=null",
        "observe={log_every: 1, tensorboard: false}",
    )
    straight = command("train", *settings, f"run.dir={tmp_path / 'straight'}", ranks=2)
    assert straight.returncode == 0, straight.stderr
    again = "train", *settings, f"run.dir={tmp_path / 'killed'}"
    killed = torchrun("tests/trainer/training/killed_run.py", *again, KILL_RANK="1", KILL_STEP="7")
    assert killed.returncode == 1
    resumed = command(*again, ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumes after step 4" in resumed.stderr
    assert_equal_folders(*(tmp_path / run / "checkpoints" / "step_00000012" for run in ("straight", "killed")))
    assert timeless(tmp_path / "straight" / "metrics.jsonl") == timeless(tmp_path / "killed" / "metrics.jsonl")
