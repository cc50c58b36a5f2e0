"""What ranks send while they draw a step, recorded in the training loop, against the formula; and a resumed run."""

import os
from pathlib import Path
from typing import Any

import pytest

from moe.collective_trace import CollectiveRecord, read
from tests.each import each
from tests.ranks import run_ranks
from tests.trainer.runs import assert_equal_folders
from trainer.config.run import RunConfig

POINTS = {"model": {"kind": "mlp", "hidden": 16, "num_layers": 2}, "data": {"kind": "toy"}}
IMAGES = {"model": {"hidden": 16, "num_layers": 2, "num_heads": 4}, "parallel": {"tensor": 2}}
CASES: dict[str, dict[str, Any]] = {
    "unbalanced": {"coupling": {"kind": "minibatch_ot", "solver": "unbalanced", "scope": "global_batch"}, **POINTS},
    "assignment, tensor": {"coupling": {"kind": "assignment", "scope": "global_batch"}, **IMAGES},
    "weights": {"coupling": {"kind": "gibbs_weighted"}, **POINTS},
    "weights at a fixed epsilon": {"coupling": {"kind": "gibbs_weighted", "epsilon": 2.0}, **POINTS},
    "weights of a user's coupling": {"coupling": {"class": "tests.trainer.own_parts:Weighted", "epsilon": 4}, **POINTS},
    "within micro batches": {"coupling": {"kind": "assignment"}, **POINTS},
}
RESUMED = "unbalanced"
"""The case that trains a step more, and once more from its second on."""


def ranks_of(name: str) -> int:
    """Two, and two times two where ranks share a block."""
    return 4 if "tensor" in name else 2


def configuration(name: str, folder: Path) -> RunConfig:
    sections = {key: value for key, value in CASES[name].items() if key != "coupling"}
    return RunConfig.model_validate(
        {
            "run": {"dir": folder},
            "flow": {"coupling": CASES[name]["coupling"]},
            "optim": {"steps": 3 if name == RESUMED else 2, "global_batch": 16, "micro_batch": 4},
            "trace": {"steps": [1, 2], "ranks_per_node": 2},
            "checkpoint": {"every": 2, "keep": 9},
            "evaluate": {"every": None},
            **sections,
        }
    )


def train_all(rank: int, world_size: int, folder: str) -> None:
    from trainer.distributed.groups import divide_ranks, unite_ranks

    os.environ["LOCAL_RANK"] = str(rank)
    for index, name in enumerate(CASES):
        if ranks_of(name) != world_size:
            continue
        config = configuration(name, Path(folder) / str(index))
        divide_ranks(1, config.parallel.tensor)
        train(config, rank, world_size, None)
        if name == RESUMED:
            again = configuration(name, Path(folder) / "resumed")
            train(again, rank, world_size, Path(folder) / "0" / "checkpoints" / "step_00000002")
        unite_ranks()


def train(config: RunConfig, rank: int, world_size: int, resumes: Path | None) -> None:
    import trainer.data
    import trainer.task
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.groups import Launch
    from trainer.training.assembly import assembled
    from trainer.training.loop import train

    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    config.run.dir.mkdir(exist_ok=True)
    layout = plan_layout(config, world_size)
    task, dataset = trainer.task.build(config), trainer.data.build(config.data)
    training = assembled(config, layout, launch, task, dataset, [], resumes)
    train(training)
    training.trace.finish()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for world_size in (2, 4):
        run_ranks(train_all, world_size, str(folder))
    return folder


@each("name", CASES)
def test_formula_and_recording_issue_the_same_collectives(runs: Path, name: str) -> None:
    from trainer.config.rules.plan import plan_layout
    from trainer.experiment.forecast.spec import trace_spec
    from trainer.experiment.forecast.trace import formula

    folder = runs / str(list(CASES).index(name))
    header, recorded = read(folder / "traces" / "collectives.jsonl")
    config = configuration(name, folder)
    computed_header, computed = formula(
        trace_spec(config, plan_layout(config, ranks_of(name)), ranks_per_node=2, steps=(1, 2))
    )
    assert header.groups == computed_header.groups
    assert [issued(record) for record in recorded] == [issued(record) for record in computed]


def issued(record: CollectiveRecord) -> tuple[object, ...]:
    place = record.rank, record.step, record.micro, record.phase, record.layer
    return *place, record.op, record.group, record.dtype, record.bytes_in, record.bytes_out, record.root


def test_a_resumed_run_draws_the_same_pairs(runs: Path) -> None:
    """The last checkpoint is the same to the last byte."""
    last = "step_00000003"
    assert_equal_folders(runs / "0" / "checkpoints" / last, runs / "resumed" / "checkpoints" / last)
    assert not (runs / "resumed" / "checkpoints" / "step_00000002").exists()
