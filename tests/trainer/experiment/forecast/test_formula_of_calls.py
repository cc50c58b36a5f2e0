"""Rollouts and losses of a task that says how it calls networks: recorded in the training loop, against the formula."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, read
from moe.placement.placement import Placement
from moe.price.traffic import Traffic
from moe.replay import kept_rollouts, replay
from moe.routing_trace import RoutingTrace
from tests.ranks import run_ranks
from trainer.config.run import RunConfig

SCOUT = "tests.trainer.task.scout:Scout"
STEPS = (3, 4, 5)
"""Cycles of two steps begin with 3 and 5."""
EVERY = {"num_experts": 4, "top_k": 4, "expert_hidden": 24}
"""A token visits every expert, so that the sizes of all messages are known to the byte."""
SOME = EVERY | {"top_k": 2}
DENSE: dict[str, Any] = {}
GRPO: dict[str, Any] = {"kind": "grpo", "reward": {"kind": "ink"}, "steps": 3, "group": 4, "kl": 0.0}
BRANCH = GRPO | {"rollout": "branch", "branches": 2, "guidance": 2.0}
GLOBAL = EVERY | {"router": {"kind": "sparse_ot", "potentials": "global"}}
CAPPED = EVERY | {"dispatch": "capped", "router": {"kind": "top_k", "capacity_factor": 1.25}}

Case = tuple[dict[str, Any], dict[str, Any], dict[str, Any], int]
"""Settings of the engine, of the experts (none: dense) and of the task; micro batches of a step."""

CASES: dict[int, dict[str, Case]] = {
    2: {
        "ZeRO 1, experts": ({}, EVERY, {}, 1),
        "ZeRO 0, experts, weights": ({"zero_stage": 0}, EVERY, {"weighs": True}, 2),
        "ZeRO 2, bf16, some experts": ({"zero_stage": 2, "precision": "bf16"}, SOME, {"cycle": 1}, 2),
        "copies, computed twice": ({"activation_checkpointing": True}, EVERY | {"dispatch": "copies"}, {}, 1),
        "two calls in a loss": ({}, EVERY, {"in_a_loss": 2}, 1),
        "gradients in rollouts": ({}, EVERY, {"differentiates": True}, 1),
        "asked experts": ({}, EVERY, {"teacher": "0"}, 1),
        "GRPO, experts, ZeRO 0": ({"zero_stage": 0}, EVERY, GRPO, 1),
        "GRPO, experts, ZeRO 1, its base": ({}, EVERY, GRPO | {"kl": 0.01, "base": "0", "updates": 2}, 1),
        "GRPO, global potentials, ZeRO 2": ({"zero_stage": 2}, GLOBAL, GRPO | {"updates": 2}, 2),
        "GRPO, branches, capped experts": ({}, CAPPED, BRANCH, 1),
        "GRPO, dense, ZeRO 1": ({}, DENSE, GRPO | {"updates": 2}, 1),
        "GRPO, dense, ZeRO 3": ({"zero_stage": 3, "bucket_elements": 900}, DENSE, GRPO, 1),
        "GRPO, dense, FSDP2": ({"kind": "fsdp"}, DENSE, BRANCH, 1),
        "ZeRO 2, dense": ({"zero_stage": 2}, DENSE, {"cycle": 3}, 2),
        "ZeRO 3": ({"zero_stage": 3}, DENSE, {}, 1),
        "ZeRO 3, small buckets, one pass": ({"zero_stage": 3, "bucket_elements": 900}, DENSE, {"passes": 1}, 1),
        "ZeRO 3, one loss a cycle": ({"zero_stage": 3, "bucket_elements": 900}, DENSE, {"passes": 1, "cycle": 1}, 1),
        "FSDP2": ({"kind": "fsdp"}, DENSE, {}, 2),
        "FSDP2, blocks kept, bf16": (
            {"kind": "fsdp", "reshard_after_forward": False, "precision": "bf16"},
            DENSE,
            {},
            1,
        ),
    },
    4: {
        "ZeRO 1, experts": ({}, EVERY, {}, 1),
        "ZeRO 0, some experts": ({"zero_stage": 0}, SOME, {}, 2),
        "ZeRO 2, bf16, hierarchical": (
            {"zero_stage": 2, "precision": "bf16"},
            EVERY | {"dispatch": "hierarchical", "ranks": 4},
            {},
            1,
        ),
        "ZeRO 3, small buckets": ({"zero_stage": 3, "bucket_elements": 900}, DENSE, {"passes": 3, "cycle": 1}, 2),
        "GRPO, experts, ZeRO 0": ({"zero_stage": 0}, SOME, GRPO, 1),
        "GRPO, experts, ZeRO 1, its base": ({}, EVERY, GRPO | {"kl": 0.01, "base": "0"}, 1),
        "GRPO, experts, ZeRO 2": ({"zero_stage": 2}, EVERY, BRANCH | {"updates": 2}, 2),
        "GRPO, dense, ZeRO 1": ({}, DENSE, GRPO | {"updates": 2}, 1),
        "FSDP2": ({"kind": "fsdp"}, DENSE, {"cycle": 1}, 1),
    },
}
FAST = (2, "ZeRO 1, experts")
CHOSEN = [
    pytest.param(ranks, name, marks=() if (ranks, name) == FAST else pytest.mark.slow)
    for ranks, cases in CASES.items()
    for name in cases
]
Recorded = tuple[TraceHeader, list[CollectiveRecord], Path]


def configuration(ranks: int, name: str, folder: Path) -> RunConfig:
    """The case of a name; folders of cases stand beside each other."""
    engine, experts, task, micros = CASES[ranks][name]
    moe = {key: value for key, value in experts.items() if key != "ranks"}
    sections: dict[str, Any] = {"moe": moe, "parallel": {"expert": experts.get("ranks", 2)}} if moe else {}
    for name in task.keys() & {"teacher", "base"}:
        task = task | {name: str(folder.parent / task[name])}
    task = task if "kind" in task else {"class": SCOUT, **task}
    return RunConfig.model_validate(
        {
            "run": {"dir": folder},
            "task": task,
            "model": {"hidden": 16, "num_layers": 2, "num_heads": 4},
            "optim": {"steps": 6, "global_batch": 3 * ranks * micros, "micro_batch": 3},
            "trace": {"steps": list(STEPS), "ranks_per_node": 2},
            "engine": engine,
            "checkpoint": {"every": 6},
            "evaluate": {"every": None},
            "sample": {"every": None},
            **sections,
        }
    )


def train_all(rank: int, world_size: int, folder: str, names: list[str]) -> None:
    import trainer.data
    import trainer.task
    from trainer.config.rules.plan import plan_layout
    from trainer.config.trust import trusting
    from trainer.distributed.groups import Launch, divide_ranks, unite_ranks
    from trainer.training.assembly import assembled
    from trainer.training.loop import train

    os.environ["LOCAL_RANK"] = str(rank)
    launch = Launch(rank=rank, local_rank=rank, world_size=world_size, local_world_size=world_size)
    for name in names:
        config = configuration(world_size, name, folder_of(Path(folder), world_size, name))
        config.run.dir.mkdir(exist_ok=True)
        with patch("trainer.config.rules.tasks._of_base"):  # what it starts with is of no effect here
            layout = plan_layout(config, world_size)
        divide_ranks(2 if config.moe is None else layout.expert_parallel, 1, layout.relay_ranks)
        task, dataset = trainer.task.build(config), trainer.data.build(config.data)
        training = assembled(config, layout, launch, task, dataset, [], None)
        with trusting(folders=True):  # a base is a run of a class of the tests
            train(training)
        training.trace.finish()
        unite_ranks()


def folder_of(folder: Path, ranks: int, name: str) -> Path:
    return folder / str(list(CASES[ranks]).index(name))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Recorded]:
    """The fast case alone, all others of as many ranks together."""
    folders: dict[tuple[int, bool], Path] = {}

    def recorded(ranks: int, name: str) -> Recorded:
        kind = ranks, (ranks, name) == FAST
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp("runs")
            names = [FAST[1]] if kind[1] else list(CASES[ranks])
            run_ranks(train_all, ranks, str(folders[kind]), names)
        folder = folder_of(folders[kind], ranks, name)
        return *read(folder / "traces" / "collectives.jsonl"), folder

    return recorded


def computed(ranks: int, name: str, folder: Path) -> tuple[TraceHeader, list[CollectiveRecord]]:
    from trainer.config.rules.plan import plan_layout
    from trainer.config.trust import trusting
    from trainer.experiment.forecast.spec import trace_spec
    from trainer.experiment.forecast.trace import formula

    config = configuration(ranks, name, folder)
    with patch("trainer.config.rules.tasks._of_base"):
        layout = plan_layout(config, ranks)
    with trusting(folders=True):
        header, records = formula(trace_spec(config, layout, ranks_per_node=2, steps=STEPS))
        return header, list(records)


@pytest.mark.parametrize(("ranks", "name"), CHOSEN)
def test_formula_and_recording_issue_the_same_collectives(
    recordings: Callable[[int, str], Recorded], ranks: int, name: str
) -> None:
    header, recorded, folder = recordings(ranks, name)
    computed_header, records = computed(ranks, name, folder)
    exact = CASES[ranks][name][1] is not SOME
    assert header.groups == computed_header.groups
    assert header.version == computed_header.version
    assert [issued(record, exact) for record in recorded] == [issued(record, exact) for record in records]
    assert all_to_all_totals(recorded) == all_to_all_totals(records)


def issued(record: CollectiveRecord, exact: bool) -> tuple[object, ...]:
    """What is compared; how the tokens of an exchange divide is up to the router, unless each visits all experts."""
    place = record.rank, record.step, record.micro, record.phase, record.layer
    about = record.op, record.group, record.dtype, record.root
    if record.op == "all_to_all" and not exact:
        return *place, *about
    return *place, *about, record.bytes_in, record.bytes_out, record.wait_seq, record.in_splits, record.out_splits


def all_to_all_totals(records: list[CollectiveRecord]) -> dict[tuple[object, ...], int]:
    """Bytes of each exchange over all its members: those of the k-th all-to-all of a group in the trace."""
    totals: dict[tuple[object, ...], int] = {}
    turns: dict[tuple[object, ...], int] = {}
    for record in records:
        if record.op == "all_to_all":
            turn = turns[record.rank, record.group] = turns.get((record.rank, record.group), -1) + 1
            key = record.group, turn, record.step, record.phase, record.layer
            totals[key] = totals.get(key, 0) + record.bytes_in
    return totals


def test_rollouts_come_first_in_the_first_step_of_each_cycle_and_nowhere_else(
    recordings: Callable[[int, str], Recorded],
) -> None:
    header, recorded, _ = recordings(*FAST)
    assert header.version == 2
    assert {record.step for record in recorded if record.phase == "rollout"} == {3, 5}
    own = [record for record in recorded if record.rank == 0 and record.step == 3]
    rollouts = [record.phase == "rollout" for record in own]
    assert rollouts == sorted(rollouts, reverse=True)
    assert {record.layer for record in own if record.phase == "rollout"} == {0, 1}


def test_routes_of_rollouts_are_not_mixed_into_a_step(recordings: Callable[[int, str], Recorded]) -> None:
    """As many tokens as the losses of a step have."""
    _, _, folder = recordings(*FAST)
    routing = RoutingTrace.read(folder / "traces" / "routing.npz")
    assert routing.step is not None
    tokens = len(routing.expert_ids[routing.step == 3])
    passes, rows, examples, of_an_example = 2, 2, 2 * 3, 16
    assert tokens == passes * rows * examples * of_an_example
    assert set(np.unique(routing.step).tolist()) == set(STEPS)


def test_a_replay_leaves_rollouts_as_they_were(recordings: Callable[[int, str], Recorded]) -> None:
    """Under the placement of the run all else is as recorded, too; and their messages have no price."""
    header, recorded, folder = recordings(*FAST)
    routing = RoutingTrace.read(folder / "traces" / "routing.npz")
    replayed_header, replayed = replay(header, recorded, routing, Placement.contiguous(2, 4, 1, 2))
    assert replayed_header.version == 2
    assert [issued(record, True) for record in replayed] == [issued(record, True) for record in recorded]
    learned = [record for record in recorded if record.phase != "rollout"]
    assert Traffic.of(header, recorded, 1) == Traffic.of(header, learned, 1)
    assert kept_rollouts(header) is not None
    assert kept_rollouts(replace(header, version=1)) is None


def test_a_later_step_of_a_cycle_alone_has_no_rollouts(tmp_path: Path) -> None:
    from trainer.config.rules.plan import plan_layout
    from trainer.experiment.forecast.spec import trace_spec
    from trainer.experiment.forecast.trace import formula

    config = configuration(*FAST, tmp_path)
    spec = trace_spec(config, plan_layout(config, 2), ranks_per_node=2, steps=(2,))
    header, records = formula(spec)
    later = list(records)
    assert header.version == 1
    assert {record.phase for record in later} == {"forward", "backward", "optimizer"}
    whole = list(formula(replace(spec, steps=(1,)))[1])
    without = [record for record in whole if record.phase != "rollout"]
    assert [replace(record, step=2, seq=0) for record in without] == [replace(record, seq=0) for record in later]


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "several calls": ({"kind": "fsdp"}, {"in_a_loss": 2}, "engine: fsdp has no formula for several calls in a loss"),
    "gradients": ({"zero_stage": 3}, {"differentiates": True}, "engine: zero_stage 3 has no formula for the gradients"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_calls_that_no_formula_covers_are_refused_by_name(name: str, tmp_path: Path) -> None:
    from trainer.experiment.forecast.unknown import without_formula

    engine, task, said = REFUSED[name]
    document = configuration(2, "FSDP2", tmp_path).model_dump(by_alias=True)
    config = RunConfig.model_validate(document | {"engine": engine, "task": {"class": SCOUT, **task}})
    assert (without_formula(config) or "").startswith(said)
