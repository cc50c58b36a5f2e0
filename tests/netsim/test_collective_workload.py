"""The collective workload: what its section takes and refuses, uneven splits, and what reaches the fabric."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from netsim import simulate
from netsim.collective.protocol import Message, Operation
from netsim.foundation.refusal import Refusal
from netsim.simulation.scenario import read_scenario
from netsim.workload.collective import CollectiveConfig, CollectiveWorkload, ZipfSplits, read_matrix, zipf_matrix
from netsim.workload.program import Program
from tests.each import each
from tests.netsim.documents import scenario_of


def scenario(**workload: object) -> dict[str, Any]:
    return scenario_of(2, 2, 2, {"kind": "collective", **workload})


def moved(content: Mapping[str, Any]) -> dict[tuple[int, int], int]:
    """Bytes between ranks that the simulated flows carried."""
    volume: Counter[tuple[int, int]] = Counter()
    for _, _, src, dst, size_bytes, *_ in simulate(content).runs[0].flows.tolist():
        volume[src, dst] += size_bytes
    return dict(volume)


def matrix_file(folder: Path, text: str) -> Path:
    path = folder / "splits.csv"
    path.write_text(text)
    return path


@each("exponent", [0, 0.3, 1, 1.2, 2.5])
@each("size, whole", [(1, 5), (2, 1), (7, 1000), (64, 4_096_000), (200, 12_345_678_901)])
def test_zipf_rows_sum_and_each_entry_is_its_share_but_for_a_byte(size, whole, exponent):
    matrix = zipf_matrix(ZipfSplits(kind="zipf", exponent=exponent, seed=3), size, whole)
    assert len(matrix) == size
    assert len(set(matrix)) == 1
    assert sum(matrix[0]) == whole
    total = sum(place**-exponent for place in range(1, size + 1))
    for place, size_bytes in enumerate(sorted(matrix[0], reverse=True), start=1):
        assert abs(size_bytes - whole * place**-exponent / total) < 1 + 1e-9 * whole


def test_the_seed_says_who_is_popular_and_the_exponent_does_not():
    def popular(seed: int, exponent: float) -> int:
        row = zipf_matrix(ZipfSplits(kind="zipf", exponent=exponent, seed=seed), 32, 10**6)[0]
        return row.index(max(row))

    assert len({popular(seed, 1) for seed in range(20)}) > 8
    assert all(popular(seed, 1) == popular(seed, 3) for seed in range(20))


def test_zipf_splits_reach_the_fabric():
    content = scenario(op="all_to_all", bytes_per_rank="16KB", splits={"kind": "zipf", "exponent": 1.2, "seed": 5})
    row = zipf_matrix(ZipfSplits(kind="zipf", exponent=1.2, seed=5), 4, 16_000)[0]
    assert moved(content) == {(src, dst): row[dst] for src in range(4) for dst in range(4) if src != dst}


def test_a_matrix_reaches_the_fabric_and_says_how_many_ranks_take_part(tmp_path):
    path = matrix_file(tmp_path, "9, 100,0\r\n5000,7,1\n0,3,0\n\n")
    assert read_matrix(path) == ((9, 100, 0), (5000, 7, 1), (0, 3, 0))
    content = scenario(op="all_to_all", splits={"kind": "matrix", "path": str(path)})
    assert moved(content) == {(0, 1): 100, (1, 0): 5000, (1, 2): 1, (2, 1): 3}


@each(
    "text, field, problem",
    [
        ("", "file", "is empty"),
        ("\n\n", "file", "is empty"),
        ("1,2\n3\n", "line 2", "has 1 columns in a file of 2 lines"),
        ("1,2\n3,4\n5,6\n", "line 1", "has 2 columns in a file of 3 lines"),
        ("1,2\n\n3,4\n", "line 1", "has 2 columns in a file of 3 lines"),
        ("1,2\n3,x\n", "line 2: column 2", "'x'"),
        ("1,-2\n3,4\n", "line 1: column 2", "'-2'"),
        ("1.5,2\n3,4\n", "line 1: column 1", "'1.5'"),
        ("1,\n3,4\n", "line 1: column 2", "''"),
        ("1,nan\n3,4\n", "line 1: column 2", "'nan'"),
        ("1,99999999999999999999\n3,4\n", "line 1: column 2", "'99999999999999999999'"),
        ("1,0\n0,4\n", "file", "no rank sends anything to another"),
    ],
)
def test_a_wrong_matrix_is_refused_with_line_and_column(text, field, problem, tmp_path):
    path = matrix_file(tmp_path, text)
    with pytest.raises(Refusal) as raised:
        simulate(scenario(op="all_to_all", splits={"kind": "matrix", "path": str(path)}))
    assert (raised.value.file, raised.value.field) == (str(path), field)
    assert problem in raised.value.problem
    assert "\n" not in str(raised.value)


def test_a_matrix_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(Refusal, match=r"none\.csv: file: cannot be read"):
        read_matrix(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refusal, match="is not text"):
        read_matrix(tmp_path / "binary.csv")


ZIPF = {"kind": "zipf", "exponent": 1}


@each("splits", [ZIPF, {"kind": "matrix", "path": "a.csv"}])
def test_a_section_with_splits_can_be_written_and_read_back(splits):
    sized = {"bytes_per_rank": "1KB"} if splits == ZIPF else {}
    read = read_scenario(scenario(op="all_to_all", splits=splits, **sized))
    assert read_scenario(read.resolved()) == read


def test_send_goes_from_the_first_rank_to_the_second():
    assert moved(scenario(op="send", bytes_per_rank="10KB")) == {(0, 1): 10_000}


def test_messages_wait_where_the_schedule_says_and_a_point_gathers_without_moving():
    """Rank 2 sends when what ranks 0 and 1 send it has come together at it."""

    def three(operation: Operation, *_: object) -> list[Message]:
        assert operation.op == "all_reduce"
        pairs = ((0, 2, 10, ()), (1, 2, 10, ()), (2, 2, 0, (0, 1)), (2, 0, 10, (2,)), (2, 1, 10, (2,)))
        return [Message(n, src, dst, size, (0,), after) for n, (src, dst, size, after) in enumerate(pairs)]

    program = Program()
    config = CollectiveConfig(kind="collective", op="all_reduce", bytes_per_rank="10B")  # type: ignore[arg-type]
    CollectiveWorkload(config).extend(program, (7, 8, 9), 500, three)
    tasks = list(program.tasks)
    assert [(task.src, task.dst, task.bytes) for task in tasks[1:6]] == [
        (7, 9, 10),
        (8, 9, 10),
        (9, 9, 0),
        (9, 7, 10),
        (9, 8, 10),
    ]
    assert [task.after for task in tasks[:6]] == [(), (0,), (0,), (0, 1, 2), (0, 3), (0, 3)]
    assert program.spans[0].bytes == 40
