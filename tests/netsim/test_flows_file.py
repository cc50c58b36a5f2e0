"""A list of flows: what it becomes."""

from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from netsim.workload.flows import Flow, read_flows
from tests.netsim.foreign import FILES, INSIDE, SERVICE, laid_out, opened, run

HEADER = "src,dst,bytes,start_ns\n"


def written(folder: Path, content: str) -> Path:
    path = folder / "flows.csv"
    path.write_bytes(content.encode())
    return path


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
    outcome = run(laid_out(opened("flows", path), 4, start_ps=1000), 4)
    assert outcome.completion_ps == 1000 + 12_345 + SERVICE + INSIDE


def test_flows_that_share_a_receiver_take_turns(tmp_path):
    path = written(tmp_path, HEADER + "0,3,40000,0\n1,3,40000,0\n2,3,40000,0\n")
    outcome = run(laid_out(opened("flows", path), 4), 4)
    assert outcome.completion_ps == 30 * SERVICE + INSIDE
    assert len(outcome.flows) == 3


def test_ranks_without_flows_stay_idle_and_absent_ranks_are_refused():
    flows = opened("flows", FILES / "flows.csv")
    assert flows.size(9) == 9
    with pytest.raises(Refusal, match=r"line 4: src: is not a rank \(3, of 3\); write 0 to 2"):
        flows.size(3)
