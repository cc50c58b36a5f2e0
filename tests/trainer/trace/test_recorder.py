"""Two gloo ranks call every collective directly; the expected records are written out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from moe.collective_trace import CollectiveRecord, rank_path, read
from tests.each import each
from tests.ranks import run_ranks
from trainer.trace.context import phase
from trainer.trace.merge import merge
from trainer.trace.recorder import Recorder

WORLD = 2
Call = Callable[[], Any]


def world() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None
    return group


def world_named(name: str) -> dict[str, str]:
    return {world().group_name: name}


def exchange() -> None:
    """One send each way; the lower rank sends first."""
    if dist.get_rank() == 0:
        dist.send(torch.zeros(3), 1, tag=7)
    else:
        dist.recv(torch.zeros(3), 0, tag=7)


def exchange_later() -> None:
    """A send whose wait comes after another collective."""
    work = dist.isend(torch.zeros(5), 1) if dist.get_rank() == 0 else dist.irecv(torch.zeros(5), 0)
    dist.barrier()
    assert work is not None
    work.wait()


def reduce_later() -> None:
    work = dist.all_reduce(torch.zeros(8), async_op=True)
    dist.broadcast(torch.zeros(1), 0)
    assert work is not None
    work.wait()


def uneven() -> None:
    rank, rows = dist.get_rank(), [[1, 3], [2, 0]]
    dist.all_to_all_single(
        torch.zeros(rows[0][rank] + rows[1][rank], 2),
        torch.zeros(sum(rows[rank]), 2),
        [rows[0][rank], rows[1][rank]],
        rows[rank],
    )


def reduced_in_backward() -> None:
    """DDP's C++ reducer makes the call."""
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1, bias=False))
    with phase("backward"):
        model(torch.ones(2, 3)).sum().backward()


def gathered_by_dtensor() -> None:
    from torch.distributed.tensor import DTensor, Replicate, Shard, init_device_mesh

    sharded = DTensor.from_local(torch.zeros(4), init_device_mesh("cpu", (WORLD,)), [Shard(0)], run_check=False)
    _ = sharded.redistribute(placements=[Replicate()]) + 1


def tensors(count: int, size: int) -> list[torch.Tensor]:
    return [torch.zeros(size) for _ in range(count)]


CALLS: dict[str, Call] = {
    "all_reduce": lambda: dist.all_reduce(torch.zeros(6, dtype=torch.bfloat16)),
    "all_reduce_coalesced": lambda: dist.all_reduce_coalesced(tensors(2, 3)),
    "all_gather": lambda: dist.all_gather(tensors(WORLD, 3), torch.zeros(3)),
    "all_gather flat": lambda: dist.all_gather_into_tensor(torch.zeros(6), torch.zeros(3)),
    "reduce_scatter": lambda: dist.reduce_scatter(torch.zeros(3), tensors(WORLD, 3)),
    "reduce_scatter flat": lambda: dist.reduce_scatter_tensor(torch.zeros(3), torch.zeros(6)),
    "all_to_all": lambda: dist.all_to_all_single(torch.zeros(4, 2), torch.zeros(4, 2)),
    "all_to_all list": lambda: dist.all_to_all(tensors(WORLD, 3), tensors(WORLD, 3)),
    "all_to_all uneven": uneven,
    "broadcast": lambda: dist.broadcast(torch.zeros(4, dtype=torch.int64), 1),
    "send and recv": exchange,
    "barrier": lambda: dist.barrier(),
    "send later": exchange_later,
    "all_reduce later": reduce_later,
    "never waited": lambda: dist.all_reduce(torch.zeros(2), async_op=True),
    "functional": lambda: functional.all_reduce(torch.zeros(4), "sum", world()) + 1,
    "functional all_to_all": lambda: functional.wait_tensor(
        functional.all_to_all_single(torch.zeros(4), [2, 2], [2, 2], world())
    ),
    "functional all_gather": lambda: functional.wait_tensor(functional.all_gather_tensor(torch.zeros(4), 0, world())),
    "functional reduce_scatter": lambda: functional.wait_tensor(
        functional.reduce_scatter_tensor(torch.zeros(4), "sum", 0, world())
    ),
    "functional broadcast": lambda: functional.wait_tensor(functional.broadcast(torch.zeros(4), 1, world())),
    "functional coalesced": lambda: [
        functional.wait_tensor(item)
        for item in functional.all_gather_into_tensor_coalesced([torch.zeros(4), torch.zeros(1)], world())
    ],
    "coalesced": lambda: dist.all_gather_coalesced([tensors(2, 3), tensors(2, 3)], tensors(2, 3)),
    "monitored barrier": lambda: dist.monitored_barrier(),
    "DTensor": gathered_by_dtensor,
    "DDP": reduced_in_backward,
}

Fields = dict[str, Any]


def record(op: str, bytes_in: int, bytes_out: int, **others: Any) -> Fields:
    return {"op": op, "bytes_in": bytes_in, "bytes_out": bytes_out, **others}


# What each rank's records must say, by call.
EXPECTED: dict[str, list[list[Fields]]] = {
    "all_reduce": [[record("all_reduce", 12, 12, dtype="bfloat16")]] * 2,
    "all_reduce_coalesced": [[record("all_reduce", 24, 24)]] * 2,
    "all_gather": [[record("all_gather", 12, 24)]] * 2,
    "all_gather flat": [[record("all_gather", 12, 24)]] * 2,
    "reduce_scatter": [[record("reduce_scatter", 24, 12)]] * 2,
    "reduce_scatter flat": [[record("reduce_scatter", 24, 12)]] * 2,
    "all_to_all": [[record("all_to_all", 32, 32, in_splits=(16, 16), out_splits=(16, 16))]] * 2,
    "all_to_all list": [[record("all_to_all", 24, 24, in_splits=(12, 12), out_splits=(12, 12))]] * 2,
    "all_to_all uneven": [
        [record("all_to_all", 32, 24, in_splits=(8, 24), out_splits=(8, 16))],
        [record("all_to_all", 16, 24, in_splits=(16, 0), out_splits=(24, 0))],
    ],
    "broadcast": [
        [record("broadcast", 0, 32, root=1, dtype="int64")],
        [record("broadcast", 32, 32, root=1, dtype="int64")],
    ],
    "send and recv": [
        [record("send", 12, 0, peer=1, tag=7, asynchronous=False, wait_seq=None)],
        [record("recv", 0, 12, peer=0, tag=7, asynchronous=False, wait_seq=None)],
    ],
    "barrier": [[record("barrier", 0, 0)]] * 2,
    "send later": [
        [record("send", 20, 0, peer=1, asynchronous=True, wait_seq=2), record("barrier", 0, 0)],
        [record("recv", 0, 20, peer=0, asynchronous=True, wait_seq=2), record("barrier", 0, 0)],
    ],
    "all_reduce later": [
        [record("all_reduce", 32, 32, asynchronous=True, wait_seq=2), record("broadcast", 4, 4, root=0)],
        [record("all_reduce", 32, 32, asynchronous=True, wait_seq=2), record("broadcast", 0, 4, root=0)],
    ],
    "never waited": [[record("all_reduce", 8, 8, asynchronous=True, wait_seq=1, t_done_ns=None)]] * 2,
    "functional": [[record("all_reduce", 16, 16, asynchronous=False)]] * 2,
    "functional all_to_all": [[record("all_to_all", 16, 16, in_splits=(8, 8), out_splits=(8, 8))]] * 2,
    "functional all_gather": [[record("all_gather", 16, 32, asynchronous=False)]] * 2,
    "functional reduce_scatter": [[record("reduce_scatter", 16, 8)]] * 2,
    "functional broadcast": [[record("broadcast", 0, 16, root=1)], [record("broadcast", 16, 16, root=1)]],
    "functional coalesced": [[record("all_gather", 20, 40, asynchronous=False)]] * 2,
    "coalesced": [[record("all_gather", 24, 48)]] * 2,
    "monitored barrier": [[record("barrier", 0, 0, asynchronous=False)]] * 2,
    "DTensor": [[record("all_gather", 16, 32, asynchronous=False)]] * 2,
    "DDP": [[record("all_reduce", 12, 12, phase="backward", asynchronous=True)]] * 2,
}


def record_calls(rank: int, _world_size: int, folder: str) -> None:
    """Each call in a step of its own, and the same calls in one step of another file."""
    names = world_named("world")
    for index, call in enumerate(CALLS.values()):
        recorder = Recorder(
            rank_path(Path(folder) / str(index), rank), steps=[1], ranks_per_node=WORLD, group_names=names
        )
        unwatched = dist.Work.wait
        with recorder.step(0):
            assert dist.Work.wait is unwatched
            dist.all_reduce(torch.zeros(1))
        with recorder.step(1):
            call()
        assert dist.Work.wait is unwatched
        recorder.write()
        dist.barrier()


def record_blocks(rank: int, _world_size: int, folder: str) -> dict[str, list[int]]:
    """Modes and hooks that torch knows of inside steps that are recorded or not, and after them."""
    blocks = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
    recorder = Recorder(
        rank_path(Path(folder), rank), steps=[1], ranks_per_node=WORLD, group_names=world_named("world"), blocks=blocks
    )

    def active() -> list[int]:
        hooks = sum(len(block._forward_hooks) + len(block._forward_pre_hooks) for block in blocks)
        return [len(_get_current_dispatch_mode_stack()), hooks]

    found = {}
    for step, name in ((0, "unrecorded"), (1, "recorded")):
        with recorder.step(step):
            found[name] = active()
            blocks[1](blocks[0](torch.ones(1, 2, requires_grad=True))).sum().backward()
        found[f"after {name}"] = active()
    return found


def resume(rank: int, _world_size: int, folder: str) -> list[list[int]]:
    """Two processes' worth of one run, then one of another configuration."""
    names = world_named("world")
    kept = []
    for config, last in (("a", None), ("a", 3), ("b", 3)):
        recorder = Recorder(
            rank_path(Path(folder), rank), steps=range(2, 6), ranks_per_node=1, config_sha256=config, group_names=names
        )
        if last is not None:
            recorder.resume(last)
        for step in range(0 if last is None else last + 1, 6):
            with recorder.step(step):
                dist.barrier()
        recorder.write()
        kept.append([item.step for item in read(recorder.path)[1]])
    return kept


def refusals(rank: int, _world_size: int, folder: str) -> list[str]:
    """What the recorder says to an operator without a word in the trace, and to one name for two groups."""
    alone: Any = [dist.new_group([other]) for other in range(WORLD)][rank]
    both = world_named("data") | {alone.group_name: "data"}
    calls: list[tuple[dict[str, str], Call]] = [
        ({}, lambda: dist.reduce(torch.zeros(1), 0)),
        (both, lambda: [dist.barrier(group) for group in (world(), alone)]),
    ]
    messages = []
    for names, call in calls:
        recorder = Recorder(Path(folder) / "refused.jsonl", steps=[0], ranks_per_node=1, group_names=names)
        with pytest.raises(ValueError) as refusal, recorder.step(0):  # noqa: PT011
            call()
        messages.append(str(refusal.value))
    return messages


Told = tuple[dict[str, list[int]], list[list[int]], list[str]]


def record_everything(rank: int, world_size: int, folder: str) -> Told:
    """What :func:`record_blocks`, :func:`resume` and :func:`refusals` return."""
    record_calls(rank, world_size, folder)
    blocks = record_blocks(rank, world_size, f"{folder}/blocks")
    return blocks, resume(rank, world_size, f"{folder}/resumed"), refusals(rank, world_size, f"{folder}/refused")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calls")


@pytest.fixture(scope="module")
def told(folder: Path) -> list[Told]:
    return run_ranks(record_everything, WORLD, str(folder))


@pytest.fixture(scope="module")
def recordings(folder: Path, told: list[Told]) -> dict[str, list[list[CollectiveRecord]]]:
    assert told
    for index in range(len(CALLS)):
        merge(folder / str(index), WORLD)
    return {
        name: [read(rank_path(folder / str(index), rank))[1] for rank in range(WORLD)]
        for index, name in enumerate(CALLS)
    }


def test_nothing_watches_a_step_that_is_not_recorded(told: list[Told]) -> None:
    for found, _, _ in told:
        modes, hooks = found["recorded"]
        assert modes > 0
        assert hooks > 0
        assert found["unrecorded"] == found["after unrecorded"] == found["after recorded"] == [0, 0]


@each("name", CALLS)
def test_each_call_gives_the_expected_records(recordings: dict[str, list[list[CollectiveRecord]]], name: str) -> None:
    for rank in range(WORLD):
        of_rank = [item for item in recordings[name][rank] if name != "DDP" or item.phase == "backward"]
        assert len(of_rank) == len(EXPECTED[name][rank])
        for item, expected in zip(of_rank, EXPECTED[name][rank], strict=True):
            assert (item.rank, item.step, item.group, item.size1) == (rank, 1, "world", False)
            assert {field: getattr(item, field) for field in expected} == expected


def test_times_grow_and_gaps_leave_out_the_time_in_collectives(
    recordings: dict[str, list[list[CollectiveRecord]]],
) -> None:
    first, second = recordings["all_reduce later"][0]
    assert first.t_issue_ns == 0
    assert first.t_done_ns is not None
    assert second.t_issue_ns is not None
    assert second.t_done_ns is not None
    assert second.gap_ns is not None
    assert 0 < second.gap_ns <= second.t_issue_ns < second.t_done_ns < first.t_done_ns


def test_a_resumed_run_keeps_its_own_steps_and_unknown_operators_are_refused(told: list[Told]) -> None:
    for _, kept, (operator, group) in told:
        assert kept == [[2, 3, 4, 5], [2, 3, 4, 5], [4, 5]]
        assert "trace.steps" in operator
        assert "c10d::reduce_" in operator
        assert "group_names.data" in group
