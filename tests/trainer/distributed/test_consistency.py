"""Ranks that were not started alike are all refused in one line, and those that never come are named."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from tests.each import each
from trainer.distributed import consistency, start_store
from trainer.distributed.consistency import Subject, compare, compare_for_good, consistent_ranks
from trainer.distributed.groups import Launch
from trainer.distributed.process.exit_status import RanksMissing, StartRefused
from trainer.distributed.start_store import Origin, Report, StartStore, disagreement

REMEDY = "start every node with the same"
BASE: Mapping[str, Any] = {"optim.lr": 0.001, "run.seed": 0, "optim.steps": 600, "moe.placement": None}


def on_ranks(world_size: int, ranks_per_node: int, play: Callable[[StartStore], Any]) -> list[Any]:
    """What `play` returns or raises on each rank, all of them threads with one store."""
    store = dist.HashStore()
    outcomes: list[Any] = [None] * world_size

    def rank(number: int) -> None:
        launch = Launch(number, number % ranks_per_node, world_size, ranks_per_node)
        try:
            outcomes[number] = play(StartStore(launch, lambda: store))
        except (ValueError, RuntimeError) as error:
            outcomes[number] = error

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def settings(values: Mapping[str, Any]) -> dict[str, Subject]:
    return {"settings": Subject(values, REMEDY)}


def line_of(outcomes: Sequence[Any]) -> str:
    """The one line that all ranks were refused with, the machine's name left out."""
    assert {type(outcome) for outcome in outcomes} == {StartRefused}, outcomes
    (line,) = {str(outcome) for outcome in outcomes}
    return line.replace(f"({start_store.socket.gethostname()}, ", "(host, ")


def test_equal_ranks_go_on() -> None:
    assert on_ranks(6, 2, lambda ranks: compare(ranks, "given", settings(BASE))) == [None] * 6


@each(
    ("changes", "told"),
    [
        ({"optim.lr": 0.1}, "optim.lr is 0.001 on node 0 (host, ranks 0-1) and 0.1 on node 1 (host, ranks 2-3)"),
        ({"run.seed": 1}, "run.seed is 0 on node 0 (host, ranks 0-1) and 1 on node 1 (host, ranks 2-3)"),
        ({"new": "x" * 500}, f"new is not given on node 0 (host, ranks 0-1) and {'x' * 77}... on node 1"),
        (
            {"optim.lr": 0.1, "optim.steps": 20, "run.seed": 3, "moe.placement": "a.json"},
            "moe.placement is null on node 0 (host, ranks 0-1) and a.json on node 1 (host, ranks 2-3), optim.lr is ",
        ),
    ],
)
def test_a_difference_is_named_with_values_and_ranks_on_every_rank(changes: Mapping[str, Any], told: str) -> None:
    def play(ranks: StartStore) -> None:
        compare(ranks, "given", settings({**BASE, **(changes if ranks.node == 1 else {})}))

    line = line_of(on_ranks(4, 2, play))
    assert line.startswith(told)
    assert line.endswith(f"; {REMEDY}")
    assert (", and 1 more differ; " in line) is (len(changes) == 4)


def test_single_ranks_and_several_nodes_are_named_by_their_numbers() -> None:
    def play(ranks: StartStore) -> None:
        compare(ranks, "given", settings({"seed": {3: 1, 4: 2, 5: 2, 6: 2, 7: 2}.get(ranks.launch.rank, 0)}))

    assert line_of(on_ranks(8, 2, play)).startswith(
        "seed is 0 on ranks 0-2 (nodes 0-1), 1 on rank 3 (node 1) and 2 on nodes 2-3 (ranks 4-7)"
    )


def test_ranks_that_do_not_know_are_as_the_first_of_their_node() -> None:
    def play(ranks: StartStore) -> None:
        known = {"trainer/loop.py": "one" if ranks.node != 1 else "other"} if ranks.leads else None
        compare(ranks, "given", {"code": Subject(known, "bring the same code")})

    assert line_of(on_ranks(6, 2, play)) == (
        "trainer/loop.py is one on nodes 0, 2 (ranks 0-1, 4-5) and other on node 1 (host, ranks 2-3); "
        "bring the same code"
    )


def test_the_remedy_is_that_of_the_first_subject_that_differs() -> None:
    def play(ranks: StartStore) -> None:
        node = ranks.node
        subjects = {"a": Subject({"x": 1}, "A"), "b": Subject({"y": node}, "B"), "c": Subject({"z": node}, "C")}
        compare(ranks, "given", subjects)

    line = line_of(on_ranks(2, 1, play))
    assert line.endswith("; B")
    assert "y is 0" in line
    assert "z is 0" in line


def test_an_objection_ends_all_and_is_told_with_its_ranks() -> None:
    def play(ranks: StartStore) -> None:
        compare(ranks, "given", settings(BASE), objection="the disk is full" if ranks.node == 1 else None)

    assert line_of(on_ranks(4, 2, play)) == "node 1 (host, ranks 2-3): the disk is full"


@pytest.mark.parametrize("node", [0, 1])
def test_wrong_input_on_one_node_ends_the_other_wherever_it_is(node: int, tmp_path: Path) -> None:
    def play(ranks: StartStore) -> None:
        with consistent_ranks(ranks, tmp_path / "a.yaml"):
            compare(ranks, "given", settings(BASE))
            if ranks.node == node:
                raise ValueError("model.depth: is wrong; correct it")
            compare_for_good("resolved", settings(BASE), patience_s=20)

    line = line_of(on_ranks(2, 1, play))
    assert line == f"node {node} (host, rank {node}): {tmp_path}/a.yaml: model.depth: is wrong; correct it"


def test_what_goes_wrong_later_concerns_one_rank_alone(tmp_path: Path) -> None:
    def play(ranks: StartStore) -> None:
        with consistent_ranks(ranks, tmp_path):
            compare_for_good("resolved", settings(BASE), patience_s=20)
            if ranks.launch.rank == 1:
                raise ValueError("mine")

    first, second = on_ranks(2, 1, play)
    assert first is None
    assert type(second) is ValueError


def test_a_rank_that_never_comes_is_named_on_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(consistency, "REMINDER_S", 0.05)

        def play(ranks: StartStore) -> None:
            if ranks.launch.rank != 2:
                compare(ranks, "given", settings(BASE), patience_s=0.5)

        outcomes = on_ranks(4, 2, play)
    assert [type(outcome) for outcome in outcomes] == [RanksMissing, RanksMissing, type(None), RanksMissing]
    assert all(
        str(outcome).startswith("rank 2 (node 1) did not come within 0.5 s; ") for outcome in outcomes if outcome
    )
    assert "waits for rank 2 (node 1)\n" in capfd.readouterr().err


def test_without_rank_0_the_others_do_not_wait_for_ever() -> None:
    def play(ranks: StartStore) -> None:
        if ranks.launch.rank:
            compare(ranks, "given", settings(BASE), patience_s=0.1)

    first, second = on_ranks(2, 1, play)
    assert first is None
    assert type(second) is RanksMissing


def test_a_start_that_was_refused_stays_refused_in_its_store() -> None:
    """Ranks that are started again although their launcher was to end."""
    store = dist.HashStore()
    store.set(start_store.REFUSAL, "optim.lr differs")
    ranks = StartStore(Launch(1, 0, 2, 1), lambda: store)
    with pytest.raises(StartRefused, match=r"optim\.lr differs"):
        compare(ranks, "given", settings(BASE))


def test_512_ranks_compare_in_a_few_seconds_and_only_one_of_each_kind_tells_its_values() -> None:
    """Reports of 511 ranks stand in the store; rank 0 reads them, asks one rank and tells all."""
    store, world_size = dist.HashStore(), 512
    other = consistency._digest({"lr": 2})
    same = consistency._digest({"lr": 1})
    for rank in range(1, world_size):
        origin = Origin(rank // 8, f"host{rank // 8}", rank % 8 == 0)
        store.set(f"start//given/{rank}", Report(origin, {"settings": other if rank >= 504 else same}).to_json())
    store.set("start//given/values/504", json.dumps({"settings": {"lr": 2}}))
    store.add(start_store.HEARD, 63)
    ranks = StartStore(Launch(0, 0, world_size, 8), lambda: store)
    begun = time.process_time()
    with pytest.raises(StartRefused, match=r"lr is 1 on nodes 0-62 \(ranks 0-503\) and 2 on node 63 \(host63, ranks"):
        compare(ranks, "given", settings({"lr": 1}))
    assert json.loads(store.get("start//given/answer"))["asked"] == [0, 504]
    print(f"512 ranks: {time.process_time() - begun:.3f} s of rank 0's processor")


@pytest.mark.slow
def test_512_ranks_with_a_connection_each_are_done_in_a_few_seconds() -> None:
    """All in one process, so that their work is done one after the other."""
    world_size, refused = 512, []
    server = dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False, multi_tenant=True)

    def play(rank: int) -> None:
        own = dist.TCPStore("127.0.0.1", server.port, None, False, wait_for_workers=False)
        ranks = StartStore(Launch(rank, rank % 8, world_size, 8), lambda: own)
        together.wait()
        compare(ranks, "given", settings(BASE))
        values = {**BASE, f"only on {rank}": rank} if rank >= 256 else BASE
        try:
            compare(ranks, "resolved", settings(values))
        except StartRefused as error:
            refused.append(str(error))

    together = threading.Barrier(world_size + 1)
    threads = [threading.Thread(target=play, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    together.wait()
    begun, computed = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    print(
        f"two comparisons: {time.perf_counter() - begun:.2f} s, {time.process_time() - computed:.2f} s of a processor"
    )
    assert len(refused) == world_size
    assert len(set(refused)) == 1
    assert "only on 256 is not given on " in refused[0]


def test_of_many_objections_the_first_is_told() -> None:
    reports = {rank: Report(Origin(rank, f"h{rank}", leads=True), {}, f"problem {rank // 2}") for rank in range(4)}
    assert disagreement(reports) == "nodes 0-1 (ranks 0-1): problem 0"
