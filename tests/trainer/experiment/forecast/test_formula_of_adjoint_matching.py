"""Adjoint matching on two ranks: recorded in the training loop, against the formula."""

import os
from pathlib import Path
from typing import Any

import pytest

from moe.collective_trace import read
from tests.ranks import run_ranks
from tests.trainer.experiment.forecast.test_formula_of_calls import EVERY, issued
from trainer.config.run import RunConfig

pytestmark = pytest.mark.slow
RANKS, STEPS = 2, (3, 4)
EXPERTS = {"moe": EVERY, "parallel": {"expert": 2}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "experts": ({"zero_stage": 1}, EXPERTS),
    "dense": ({"zero_stage": 2}, {}),
    "ZeRO 3": ({"zero_stage": 3}, {}),
    "FSDP2": ({"kind": "fsdp"}, {}),
}
"""Engine and experts."""


def configuration(name: str, folder: Path, *, tilts: bool) -> RunConfig:
    """A base, or a run that tilts it by its ink."""
    engine, sections = CASES[name]
    task: dict[str, Any] = {"kind": "flow"}
    if tilts:
        task = {"kind": "adjoint_matching", "base": str(folder / f"{name} base"), "reward": {"kind": "ink"}}
        task |= {"steps": 4, "nodes": 2, "at_once": 1}
    return RunConfig.model_validate(
        {
            "run": {"dir": folder / (f"{name} tilted" if tilts else f"{name} base")},
            "task": task,
            "model": {"hidden": 16, "num_layers": 2, "num_heads": 4},
            "optim": {"steps": 4, "global_batch": 3 * RANKS, "micro_batch": 3},
            "trace": {"steps": list(STEPS) if tilts else [], "ranks_per_node": 2},
            "engine": engine,
            "checkpoint": {"every": 4},
            "evaluate": {"every": None},
            "sample": {"every": None, "guidance": 1.0},
            **sections,
        }
    )


def train_all(rank: int, world_size: int, folder: str) -> None:
    import trainer.data
    import trainer.task
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.training.assembly import assembled
    from trainer.training.loop import train

    os.environ["LOCAL_RANK"] = str(rank)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    for name in CASES:
        for tilts in (False, True):
            config = configuration(name, Path(folder), tilts=tilts)
            config.run.dir.mkdir(exist_ok=True)
            (config.run.dir / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
            layout = plan_layout(config, world_size)
            divide_ranks(2 if config.moe is None else layout.expert_parallel, 1, layout.relay_ranks)
            task, dataset = trainer.task.build(config), trainer.data.build(config.data)
            training = assembled(config, layout, launch, task, dataset, [], None)
            train(training)
            training.trace.finish()
            unite_ranks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    run_ranks(train_all, RANKS, str(made))
    return made


@pytest.mark.parametrize("name", CASES)
def test_formula_and_recording_issue_the_same_collectives(folder: Path, name: str) -> None:
    from trainer.config.rules.plan import plan_layout
    from trainer.experiment.forecast.spec import trace_spec
    from trainer.experiment.forecast.trace import formula

    config = configuration(name, folder, tilts=True)
    header, recorded = read(config.run.dir / "traces" / "collectives.jsonl")
    computed_header, records = formula(trace_spec(config, plan_layout(config, RANKS), ranks_per_node=2, steps=STEPS))
    assert header.groups == computed_header.groups
    assert [issued(record, True) for record in recorded] == [issued(record, True) for record in records]
    if name == "experts":
        sent = sum(record.phase == "rollout" for record in recorded if record.rank == 0)
        assert sent > 0, "the base's experts send on the way back, too"
