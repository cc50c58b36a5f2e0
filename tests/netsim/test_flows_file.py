"""A list of flows: what it becomes, and what is refused."""

from functools import partial
from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from netsim.workload.flows import Flow, FlowsConfig, FlowsWorkload, read_flows
from tests.netsim.foreign import FILES, INSIDE, SERVICE, damaged, laid_out, refused_or_sound, run

HEADER = "src,dst,bytes,start_ns\n"


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "flows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def workload(path: Path) -> FlowsWorkload:
    return FlowsWorkload(FlowsConfig(kind="flows", path=str(path)))


def test_flows_keep_ranks_bytes_and_picoseconds():
    assert read_flows(FILES / "flows.csv") == [
        Flow(2, 0, 1, 40_000, 0),
        Flow(3, 0, 2, 4000, 100_500),
        Flow(4, 3, 1, 8000, 2_500_125),
    ]


def test_columns_spaces_blank_lines_and_line_ends_as_spreadsheets_write_them(tmp_path):
    path = written(tmp_path, "\ufeffstart_ns, bytes, dst, src\r\n7, 4000, 1, 0\r\n\r\n")
    assert read_flows(path) == [Flow(2, 0, 1, 4000, 7000)]


def test_a_flow_starts_at_its_time_and_at_that_of_its_job(tmp_path):
    path = written(tmp_path, HEADER + "0,1,4000,12.345\n")
    outcome = run(laid_out(workload(path), 4, start_ps=1000), 4)
    assert outcome.completion_ps == 1000 + 12_345 + SERVICE + INSIDE


def test_flows_that_share_a_receiver_take_turns(tmp_path):
    path = written(tmp_path, HEADER + "0,3,40000,0\n1,3,40000,0\n2,3,40000,0\n")
    outcome = run(laid_out(workload(path), 4), 4)
    assert outcome.completion_ps == 30 * SERVICE + INSIDE
    assert len(outcome.flows) == 3


def test_ranks_without_flows_stay_idle_and_absent_ranks_are_refused():
    flows = workload(FILES / "flows.csv")
    assert flows.size(9) == 9
    with pytest.raises(Refusal, match=r"line 4: src: is not a rank \(3, of 3\); write 0 to 2"):
        flows.size(3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "file: is empty"),
        (b"\xff\xfe\x00\x01", "file: is not text"),
        (b"src,dst\0", "file: is not text"),
        (HEADER, "file: lists no flows"),
        ("src,dst,bytes\n0,1,4\n", "line 1: column start_ns occurs 0 times"),
        ("src,src,dst,bytes,start_ns\n", "line 1: column src occurs 2 times"),
        ("src,dst,bytes,start_ns,colour\n", "line 1: has an unknown column ('colour')"),
        ("0,1,4000,0\n", "line 1: column src occurs 0 times"),
        (HEADER + "0,1,4000\n", "line 2: has 3 cells instead of 4"),
        (HEADER + "0,1,4000,0\n0,1,4000,0,9\n", "line 3: has 5 cells instead of 4"),
        (HEADER + "-1,1,4000,0\n", "line 2: src: is not a whole number ('-1')"),
        (HEADER + "0,one,4000,0\n", "line 2: dst: is not a whole number ('one')"),
        (HEADER + "1,1,4000,0\n", "line 2: dst: is the sender itself (1)"),
        (HEADER + "0,1,0,0\n", "line 2: bytes: is not a whole number ('0')"),
        (HEADER + "0,1,1.5,0\n", "line 2: bytes: is not a whole number ('1.5')"),
        (HEADER + "0,1,99999999999999999999,0\n", "line 2: bytes: is not a whole number"),
        (HEADER + "0,1,4000,nan\n", "line 2: start_ns: is not a time ('nan')"),
        (HEADER + "0,1,4000,-1\n", "line 2: start_ns: is not a time ('-1')"),
        (HEADER + "0,1,4000,0.0001\n", "line 2: start_ns: is not a time ('0.0001')"),
        (HEADER + "0,1,4000,9999999999999999\n", "line 2: start_ns: is not a time"),
        (HEADER + "0,1,4000,\n", "line 2: start_ns: is not a time ('')"),
    ],
)
def test_says_in_one_line_what_is_wrong(content, expected, tmp_path):
    path = written(tmp_path, content)
    with pytest.raises(Refusal) as error:
        laid_out(workload(path), 4)
    assert str(error.value).startswith(f"{path}: {expected}")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refusal, match="cannot be read"):
        laid_out(workload(tmp_path / "absent.csv"), 4)


def test_damaged_files_are_refused_or_still_flows(tmp_path):
    files = damaged((FILES / "flows.csv").read_bytes(), 500)
    refused = [refused_or_sound(partial(workload, written(tmp_path, content)), 4) for content in files]
    assert 100 < sum(refused) < 500, "both happen"
