"""``python -m netsim export``."""

from pathlib import Path

from netsim.__main__ import main
from netsim.workload.chakra.files import find_traces
from netsim.workload.records import read_trace
from tests.each import each

TRACE = Path("tests/files/collectives.jsonl")


def test_every_rank_gets_an_execution_trace(tmp_path, capsys):
    out = tmp_path / "chakra"
    assert main(["export", str(TRACE), "--to", "chakra", str(out)]) == 0
    ranks = len(read_trace(TRACE).programs)
    assert len(find_traces(out)) == ranks
    assert capsys.readouterr().out == f"{ranks} execution traces: {out}\n"
    assert main(["export", str(TRACE), "--to", "chakra", str(out)]) == 2
    assert "already" in capsys.readouterr().err


@each(
    "arguments, expected",
    [
        ([str(TRACE)], "--to"),
        ([str(TRACE), "--to", "chakra"], "--to"),
        ([str(TRACE), "--to", "csv", "x"], "no format is called csv"),
        ([str(TRACE), "--to", "chakra", "pyproject.toml"], "is a file"),
        (["absent.jsonl", "--to", "chakra", "x"], "absent.jsonl: file: cannot be read"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, expected, capsys):
    assert main(["export", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected in error
    assert not Path("x").exists()
