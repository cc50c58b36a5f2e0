"""Merging: ranks that tell one story become one file, every disagreement is refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, rank_path, read, write
from tests.each import each
from trainer.trace import merge as merging
from trainer.trace.merge import merge

GOLDEN = Path("tests/files/collectives.jsonl")
WORLD = 2
STEPS = (3, 4)

Story = tuple[list[TraceHeader], list[list[CollectiveRecord]]]


def story() -> Story:
    """Two equal steps of both ranks, each with the group names that it used itself."""
    header, records = read(GOLDEN)
    headers = [replace(header, steps=STEPS, groups={"data": (0, 1), "expert_data": (rank,)}) for rank in range(WORLD)]
    programs = []
    for rank in range(WORLD):
        own = [
            replace(record, group="expert_data" if record.size1 else "data")
            for record in records
            if record.rank == rank
        ]
        later = [
            replace(record, step=4, seq=record.seq + len(own), wait_seq=record.wait_seq and record.wait_seq + len(own))
            for record in own
        ]
        programs.append(own + later)
    return headers, programs


def merged(folder: Path, told: Story) -> bool:
    for rank, (header, records) in enumerate(zip(*told, strict=True)):
        write(rank_path(folder, rank), header, records)
    return merge(folder, WORLD)


def edit(rank: int, seq: int, /, **fields: Any) -> Callable[[Story], Story]:
    def change(told: Story) -> Story:
        headers, programs = told
        programs[rank][seq] = replace(programs[rank][seq], **fields)
        return headers, programs

    return change


def drop(rank: int, seq: int) -> Callable[[Story], Story]:
    def change(told: Story) -> Story:
        headers, programs = told
        del programs[rank][seq]
        return headers, programs

    return change


def head(rank: int, **fields: Any) -> Callable[[Story], Story]:
    def change(told: Story) -> Story:
        headers, programs = told
        headers[rank] = replace(headers[rank], **fields)
        return headers, programs

    return change


def test_one_step_of_the_golden_trace_comes_back(tmp_path: Path) -> None:
    headers, programs = story()
    one = [replace(header, steps=(3,)) for header in headers], [program[:9] for program in programs]
    assert merged(tmp_path, one) is False
    assert (tmp_path / "collectives.jsonl").read_bytes() == GOLDEN.read_bytes()


def test_lines_are_those_of_the_records_however_they_were_laid_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small blocks, a name with a quotation mark, and one rank's file with blanks between its values."""
    monkeypatch.setattr(merging, "BLOCK_BYTES", 1000)
    headers, programs = story()
    odd = 'data "all"'
    headers = [replace(header, groups={odd: (0, 1), "expert_data": (rank,)}) for rank, header in enumerate(headers)]
    programs = [
        [replace(record, group=odd if record.group == "data" else record.group) for record in program]
        for program in programs
    ]
    for rank in range(WORLD):
        write(rank_path(tmp_path, rank), headers[rank], programs[rank])
    head, *lines = rank_path(tmp_path, 1).read_text().splitlines()
    lines[3:] = [line.replace(":", ": ") for line in lines[3:]]
    rank_path(tmp_path, 1).write_text("\n".join([head, *lines, ""]))
    assert merge(tmp_path, WORLD) is True
    renamed = [
        replace(record, group=f"expert_data_{record.rank}" if record.size1 else odd)
        for program in programs
        for record in program
    ]
    written = (tmp_path / "collectives.jsonl").read_text().splitlines()
    assert written[1:] == [record.to_json() for record in renamed]


def test_groups_of_one_meaning_are_numbered_in_the_order_of_their_ranks(tmp_path: Path) -> None:
    assert merged(tmp_path, story()) is True, "consecutive equal steps are steady"
    header, records = read(tmp_path / "collectives.jsonl")
    assert header.groups == {"data": (0, 1), "expert_data_0": (0,), "expert_data_1": (1,)}
    assert all(record.group == f"expert_data_{record.rank}" for record in records if record.size1)


def test_other_splits_in_the_next_step_are_steady_but_another_operation_is_not(tmp_path: Path) -> None:
    headers, programs = story()
    programs[0][10] = replace(programs[0][10], in_splits=(340, 68), bytes_in=408)
    programs[1][10] = replace(programs[1][10], out_splits=(68, 408), bytes_out=476)
    assert merged(tmp_path, (headers, programs)) is True
    for program in programs:
        program[17] = replace(program[17], op="all_reduce")
    assert merged(tmp_path, (headers, programs)) is False


@pytest.mark.parametrize(("meaning", "steady"), [("expert", True), ("expert_0", True), ("data", False)])
def test_gathers_among_ranks_that_share_experts_follow_the_routing(meaning: str, steady: bool, tmp_path: Path) -> None:
    """Coherent dispatch gathers keys and values of as many tokens as the fullest rank holds, in every step other."""
    headers, programs = story()
    headers = [replace(header, groups={**header.groups, meaning: (0, 1)}) for header in headers]
    for program in programs:
        own = program[9]
        assert own.op == "all_gather"
        program[0] = replace(program[0], group=meaning)
        program[9] = replace(own, group=meaning, bytes_in=own.bytes_in + 64, bytes_out=own.bytes_out + 128)
    assert merged(tmp_path, (headers, programs)) is steady


def test_steps_with_a_hole_between_them_are_not_steady(tmp_path: Path) -> None:
    headers, programs = story()
    programs = [[replace(item, step=9) if item.step == 4 else item for item in program] for program in programs]
    assert merged(tmp_path, ([replace(header, steps=(3, 9)) for header in headers], programs)) is False


# A fault, and what the refusal must name. Sequence numbers: 0 all_gather, 1 and 2 all_to_all, 3 send or recv,
# 4 async all_reduce, 5 all_reduce alone, 6 reduce_scatter, 7 broadcast from rank 1, 8 barrier; 9 to 17 the next step.
FAULTS: dict[str, tuple[Callable[[Story], Story], str]] = {
    "another size": (edit(1, 4, bytes_in=1204, bytes_out=1204), "rank 1 seq 4, bytes_in"),
    "another operation": (edit(1, 8, op="all_reduce"), "rank 1 seq 8, op"),
    "another type": (edit(1, 4, dtype="bfloat16"), "rank 1 seq 4, dtype"),
    "another phase": (edit(1, 0, phase="backward"), "rank 1 seq 0, phase"),
    "another micro step": (edit(1, 0, micro=1), "rank 1 seq 0, micro"),
    "another root": (edit(0, 7, root=0), "rank 1 seq 7, root"),
    "a gather that loses bytes": (edit(1, 0, bytes_out=120), "rank 1 seq 0, bytes_out"),
    "a scatter that loses bytes": (edit(1, 6, bytes_out=196), "rank 0 seq 6, bytes_in"),
    "a broadcast that loses bytes": (edit(0, 7, bytes_out=4), "rank 0 seq 7, bytes_out"),
    "rows that nobody sent": (edit(1, 1, out_splits=(272, 340)), "rank 1 seq 1, out_splits"),
    "a missing barrier": (drop(1, 17), "rank 0 seq 17, op"),
    "a missing recv": (drop(1, 12), "rank 0 seq 12, peer"),
    "another tag": (edit(1, 3, tag=0), "peer"),
    "a recv of other bytes": (edit(1, 3, bytes_out=20), "rank 1 seq 3, bytes_out"),
    "a foreign record": (edit(0, 0, rank=1), "rank 1 seq 0, rank"),
    "another step": (head(1, steps=(3, 4, 5)), "line 1, steps"),
    "another configuration": (head(1, config_sha256="0"), "line 1, config_sha256"),
    "another torch": (head(1, torch="2.6.0"), "line 1, torch"),
}


@each("fault", FAULTS)
def test_every_fault_is_refused(tmp_path: Path, fault: str) -> None:
    change, place = FAULTS[fault]
    with pytest.raises(ValueError, match=place) as refusal:
        merged(tmp_path, change(story()))
    assert str(tmp_path) in str(refusal.value)
    assert "; record the step again" in str(refusal.value)
    assert not (tmp_path / "collectives.jsonl").exists()


def test_a_missing_rank_is_refused(tmp_path: Path) -> None:
    merged(tmp_path, story())
    rank_path(tmp_path, 1).unlink()
    with pytest.raises(ValueError, match=r"rank_00001\.jsonl: file: cannot be read"):
        merge(tmp_path, WORLD)


def test_a_file_of_a_larger_world_is_refused(tmp_path: Path) -> None:
    merged(tmp_path, story())
    with pytest.raises(ValueError, match="line 1, world_size: is not 1"):
        merge(tmp_path, 1)


@pytest.mark.parametrize(("last", "steady"), [(5, True), (4, False)])
def test_steps_that_share_rollouts_are_steady_from_the_second_cycle(last: int, steady: bool, tmp_path: Path) -> None:
    """The first and the third step begin with a gathering that the second one lacks."""
    headers, programs = story()
    steps = tuple(range(3, last + 1))
    cycles = []
    for program in programs:
        whole, seq, told = [record for record in program if record.step == 3], 0, []
        for step in steps:
            of_step = whole if step != 4 else whole[1:]
            collected = replace(of_step[0], phase="rollout") if step != 4 else of_step[0]
            for record in [collected, *of_step[1:]]:
                wait = None if record.wait_seq is None else seq + record.wait_seq - record.seq
                told.append(replace(record, step=step, seq=seq, wait_seq=wait))
                seq += 1
        cycles.append(told)
    headers = [replace(header, steps=steps, version=2) for header in headers]
    assert merged(tmp_path, (headers, cycles)) is steady
    assert read(tmp_path / "collectives.jsonl")[0].version == 2


def test_ranks_without_rollouts_of_their_own_take_the_version_of_the_others(tmp_path: Path) -> None:
    headers, programs = story()
    programs[1] = [replace(record, phase="rollout" if record.size1 else record.phase) for record in programs[1]]
    assert merged(tmp_path, ([headers[0], replace(headers[1], version=2)], programs))
    assert read(tmp_path / "collectives.jsonl")[0].version == 2
