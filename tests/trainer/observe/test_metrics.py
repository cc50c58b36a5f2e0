import json
import math
from pathlib import Path

import jsonschema
import pytest

from tests.each import each
from tests.trainer.runs import timeless
from trainer.__main__ import main
from trainer.observe.metrics import MetricsFile, Record, read_metrics, truncate_after

GOLDEN = Path("tests/files/metrics.jsonl")
SCHEMA = json.loads(Path("configs/schemas/metrics.schema.json").read_text())


def written(path: Path, steps: int = 5, pace: float = 0.1) -> Path:
    sink = MetricsFile(path)
    for step in range(1, steps + 1):
        clock = {"time.step_s": pace, "time.samples_per_s": 64 / pace, "memory.peak_bytes": 1e9 * pace}
        sink.write(step, {"loss": 1 / step, "lr": 1e-3, **clock})
    sink.close()
    return path


def check_schema(path: Path) -> None:
    for line in path.read_text().splitlines():
        jsonschema.validate(json.loads(line), SCHEMA)


def test_golden_and_written_files_satisfy_the_schema(tmp_path):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check_schema(GOLDEN)
    check_schema(written(tmp_path / "metrics.jsonl"))


def test_the_golden_file_reads_and_writes_back_the_same(tmp_path):
    records = read_metrics(GOLDEN)
    assert [record.step for record in records] == [1, 2, 10]
    assert records[0].values["time.step_s"] == 0.125
    assert math.isnan(records[1].values["grad_norm"])
    sink = MetricsFile(tmp_path / "again.jsonl")
    for record in records:
        sink.write(record.step, record.values)
    sink.close()
    assert (tmp_path / "again.jsonl").read_bytes() == GOLDEN.read_bytes()


def test_a_line_is_on_disk_before_write_returns(tmp_path):
    sink = MetricsFile(tmp_path / "metrics.jsonl")
    sink.write(1, {"loss": 0.25})
    assert read_metrics(tmp_path / "metrics.jsonl") == [Record(1, {"loss": 0.25})]
    sink.close()
    sink.close()


def test_equal_runs_differ_only_in_time_and_memory(tmp_path):
    slow, fast = written(tmp_path / "a.jsonl", pace=0.2), written(tmp_path / "b.jsonl", pace=0.1)
    assert slow.read_text() != fast.read_text()
    contents = [[json.loads(line) for line in path.read_text().splitlines()] for path in (slow, fast)]
    learned = [[{**line, "time": None, "memory": None} for line in lines] for lines in contents]
    assert learned[0] == learned[1]
    assert timeless(slow) == timeless(fast)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_figures_that_are_not_finite_become_null(tmp_path, value):
    sink = MetricsFile(tmp_path / "metrics.jsonl")
    sink.write(1, {"loss": value})
    sink.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"loss": None, "step": 1}
    check_schema(tmp_path / "metrics.jsonl")


@each("step", [0, 3, 5, 9])
def test_cutting_back_keeps_the_lines_up_to_the_step(tmp_path, step):
    path = written(tmp_path / "metrics.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    truncate_after(path, step)
    assert path.read_text() == "".join(lines[:step])
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_run_writes_the_same_file_as_a_straight_one(tmp_path):
    straight = written(tmp_path / "straight.jsonl", steps=8)
    resumed = written(tmp_path / "resumed.jsonl", steps=6)
    with resumed.open("a") as file:
        file.write('{"loss": 0.1')
    truncate_after(resumed, 4)
    sink = MetricsFile(resumed)
    for record in read_metrics(straight)[4:]:
        sink.write(record.step, record.values)
    sink.close()
    assert resumed.read_bytes() == straight.read_bytes()


def test_cutting_back_a_file_that_is_not_there_makes_none(tmp_path):
    truncate_after(tmp_path / "metrics.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_a_run_without_steps(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


MALFORMED = {
    "not json": (b"loss 3\n", "line 2: record: it is not JSON"),
    "not an object": (b"[1, 2]\n", "line 2: record: it is not an object"),
    "cut off": (b'{"step": 2, "lo', "line 2: record: it is cut off"),
    "blank line": (b"\n", "line 2: record: it is not JSON"),
    "no step": (b'{"loss": 1.0}\n', r"line 2: step: .*\(None\)"),
    "fractional step": (b'{"step": 2.5}\n', r"line 2: step: .*\(2.5\)"),
    "negative step": (b'{"step": -2}\n', r"line 2: step: .*\(-2\)"),
    "boolean step": (b'{"step": true}\n', r"line 2: step: .*\(True\)"),
    "repeated step": (b'{"step": 1}\n', r"line 2: step: it does not follow step 1 \(1\)"),
    "text figure": (b'{"step": 2, "loss": "low"}\n', r"line 2: loss: .*\('low'\)"),
    "list figure": (b'{"step": 2, "loss": [1]}\n', r"line 2: loss: .*\(\[1\]\)"),
    "nan": (b'{"step": 2, "loss": NaN}\n', "line 2: record: it is not JSON"),
    "overflow": (b'{"step": 2, "loss": 1e999}\n', r"line 2: loss: .*\(inf\)"),
    "time is a number": (b'{"step": 2, "time": 3}\n', r"line 2: time: it is not an object \(3\)"),
    "memory is a number": (b'{"step": 2, "memory": 3}\n', r"line 2: memory: it is not an object \(3\)"),
    "text time": (b'{"step": 2, "time": {"step_s": "1s"}}\n', r"line 2: time.step_s: .*\('1s'\)"),
    "not utf-8": (b"\xff\xfe\n", r"metrics file: it is not UTF-8 \(byte 12\)"),
}


@each("content", MALFORMED)
def test_malformed_files_are_refused_by_name_line_and_field(tmp_path, capsys, content):
    path = tmp_path / "metrics.jsonl"
    line, message = MALFORMED[content]
    path.write_bytes(b'{"step": 1}\n' + line)
    with pytest.raises(ValueError, match=rf"^{path}: {message}.*; .+$") as error:
        read_metrics(path)
    assert "\n" not in str(error.value)
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 2
    assert capsys.readouterr().err == f"trainer report: {error.value}\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"none\.jsonl: metrics file: it cannot be read \(No such file"):
        read_metrics(tmp_path / "none.jsonl")


def test_cutting_back_leaves_a_malformed_file_as_it_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnonsense\n')
    with pytest.raises(ValueError, match="line 2: record"):
        truncate_after(path, 1)
    assert path.read_text() == '{"step": 1}\nnonsense\n'
    assert list(tmp_path.iterdir()) == [path]
