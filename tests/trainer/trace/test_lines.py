"""Many lines read at once say what each of them says by itself, or are handed back."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from moe.collective_trace import CollectiveRecord, TraceHeader, read, write
from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.trace.columns import Columns, Odd, Splits, parse, word_code

GROUPS = {"data": (0, 1, 4), "expert_1": (0, 4), "alone": (4,), "a name of more than sixteen letters": (3, 4)}
HEADER = TraceHeader("recorded", 5, 1, GROUPS, (3, 4), None, "2")
RANK = 4


def drawn(rng: random.Random, count: int) -> Iterator[CollectiveRecord]:
    """Records of every kind, with numbers of every length."""

    def number() -> int:
        return rng.randrange(10 ** rng.randrange(1, 16))

    for seq in range(count):
        group = rng.choice(list(GROUPS))
        ranks = GROUPS[group]
        op = rng.choice(("all_reduce", "all_gather", "all_to_all", "broadcast", "send", "recv", "barrier"))
        record = CollectiveRecord(
            rank=RANK,
            seq=seq * 7,
            step=3 + seq * 2 // count,
            micro=number(),
            phase=rng.choice(("forward", "backward", "optimizer")),
            op=op,
            group=group,
            size1=len(ranks) == 1,
            dtype=rng.choice(("float32", "bfloat16", "uint8", "float8_e4m3fnuz", "complex128")),
            bytes_in=number(),
            bytes_out=number(),
            gap_ns=rng.choice((None, number())),
            t_issue_ns=rng.choice((None, number())),
            layer=rng.choice((None, 0, 31)),
        )
        if rng.random() < 0.3:
            record = replace(record, asynchronous=True, wait_seq=record.seq + 1 + number(), t_done_ns=number())
        if op == "all_reduce":
            record = replace(record, bytes_out=record.bytes_in)
        elif op == "all_to_all":
            sent, got = ([number() for _ in ranks] for _ in range(2))
            record = replace(
                record, in_splits=tuple(sent), out_splits=tuple(got), bytes_in=sum(sent), bytes_out=sum(got)
            )
        elif op == "broadcast":
            record = replace(record, root=rng.choice(ranks))
        elif op in ("send", "recv"):
            record = replace(record, peer=rng.choice(ranks), tag=number())
        yield record


def text(records: Sequence[CollectiveRecord]) -> str:
    return "".join(f"{record.to_json()}\n" for record in records)


def equal(one: Columns, other: Columns) -> bool:
    for field in fields(Columns):
        own, others = getattr(one, field.name), getattr(other, field.name)
        if isinstance(own, Splits):
            if not (np.array_equal(own.starts, others.starts) and np.array_equal(own.sizes, others.sizes)):
                return False
        elif not np.array_equal(own, others):
            return False
    return True


@each("seed", range(8))
def test_columns_of_the_text_are_those_of_the_records(seed: int) -> None:
    records = list(drawn(random.Random(seed), 200))
    assert equal(parse(text(records).encode(), HEADER, RANK, -1), Columns.of(records))


def test_columns_of_blocks_are_those_of_the_whole() -> None:
    records = list(drawn(random.Random(0), 60))
    parts = [Columns.of(records[start : start + 20]) for start in range(0, 60, 20)]
    assert equal(Columns.joined(parts), Columns.of(records))


def test_a_code_follows_from_the_whole_word() -> None:
    words = ["a" * length for length in range(1, 40)] + ["expert_1", "expert_10", "expert_11", "1_expert"]
    assert len({int(word_code(word.encode())) for word in words}) == len(words)


def edited(rng: random.Random, line: str) -> str:
    """A line in which something was exchanged, left out or put in."""
    place, letter = rng.randrange(len(line)), rng.choice('0123456789"\\,:{}[] -.e\t\r\x01é~\x7f')
    match rng.randrange(6):
        case 0:
            return line[:place] + letter + line[place + 1 :]
        case 1:
            return line[:place] + line[place + 1 :]
        case 2:
            return line[:place] + letter + line[place:]
        case 3:
            return line.replace(":", ": ", 1)
        case 4:
            return line.replace("null", rng.choice(("0", '"x"', "[1]", "12345678901234567", "null ", "nul")), 1)
        case _:
            values = json.loads(line)
            key, donor = rng.choice(list(values)), rng.choice(list(drawn(rng, 1)))
            values[key] = rng.choice((None, 0, True, json.loads(donor.to_json())[key]))
            return json.dumps(values, separators=(",", ":"))


def test_what_is_read_at_once_would_have_been_read_one_by_one(tmp_path: Path) -> None:
    """Lines that the slow reader refuses never pass the fast one; those that both take say the same."""
    rng = random.Random(0)
    path, taken = tmp_path / "trace.jsonl", 0
    for _ in range(150):
        lines = text(list(drawn(rng, 4))).splitlines()
        place = rng.randrange(4)
        lines[place] = edited(rng, lines[place])
        block = "".join(f"{line}\n" for line in lines)
        write(path, HEADER, [])
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(block)
        try:
            columns = parse(block.encode(), HEADER, RANK, -1)
        except Odd:
            continue
        taken += 1
        assert equal(columns, Columns.of(read(path)[1]))
    assert 10 < taken < 140


def test_a_file_that_is_refused_is_refused_for_its_own_fault(tmp_path: Path) -> None:
    records = list(drawn(random.Random(1), 9))
    write(tmp_path / "trace.jsonl", HEADER, [*records[:8], records[7]])
    with pytest.raises(Odd):
        parse(text([*records[:8], records[7]]).encode(), HEADER, RANK, -1)
    with pytest.raises(Refusal, match="line 10, seq: must grow"):
        read(tmp_path / "trace.jsonl")
