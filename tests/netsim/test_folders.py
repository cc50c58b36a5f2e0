"""Folders that verbs write: a new one, or one of their own."""

import pytest

from netsim.__main__ import main
from tests.each import each
from tests.netsim.scenes import SCENARIO
from tests.netsim.sweeps import Here
from tests.netsim.traces import TraceWriter

pytestmark = pytest.mark.usefixtures("blank_pictures")

FOREIGN = {
    "compare": ("compare s.yaml --jobs 1 --out out", "results.json"),
    "sweep": ("sweep sweep.yaml --jobs 1 --out out", "summary.csv"),
    "export": ("export t.jsonl --to chakra out", "trace.0.et"),
}


@each("verb", FOREIGN)
def test_folders_of_others_are_refused_unless_told(verb, tmp_path, monkeypatch, capsys):
    words, written = FOREIGN[verb]
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    sweep = "format: flowfabric.sweep/1\nscenario: s.yaml\ngrid: {seeds: [[0]]}\n"
    (tmp_path / "sweep.yaml").write_text(sweep, encoding="utf-8")
    trace = TraceWriter(2)
    trace.pair(0, 1, 1000)
    trace.write(tmp_path / "t.jsonl")
    others = tmp_path / "out" / "metrics.jsonl"
    others.parent.mkdir()
    others.write_text("{}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("netsim.sweep.driver.Processes", Here)
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "out was not written by" in said
    assert "(metrics.jsonl); name a new folder, or give --overwrite" in said
    assert [path.name for path in others.parent.iterdir()] == ["metrics.jsonl"]
    assert main([*words.split(), "--overwrite"]) == 0
    assert (tmp_path / "out" / written).is_file()
    if verb != "export":  # which never replaces its files
        assert main(words.split()) == 0
    assert others.read_text(encoding="utf-8") == "{}\n"
