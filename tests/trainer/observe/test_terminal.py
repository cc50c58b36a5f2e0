"""What a person sees of a run, in a terminal and in a log."""

import io
import math
import re
from pathlib import Path

import pytest

from tests.each import each
from trainer.checkpoint.directory import step_folder
from trainer.observe.terminal import HISTORY, Dashboard, LogLines, RunningStatistics, terminal
from trainer.observe.units import duration, scaled, sparkline

VALUES = {"loss": 0.5, "grad_norm": 2.0, "lr": 1e-3, "time.step_s": 0.07, "time.samples_per_s": 914.0}
EVERYTHING = {
    **VALUES,
    "held_out_loss": 0.625,
    "time.model_flops_per_s": 1.21e12,
    "time.mfu": 0.312,
    "time.data_wait_s": 0.021,
    "time.step_spread": 1.25,
    "memory.peak_bytes": 6.12e8,
    "expert_load_max_over_mean": 1.04,
    "dropped_fraction": 0.125,
    "crossnode_token_fraction": 0.5,
    "skipped_steps": 3,
    "bad_samples": 7,
}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def last_view(values: dict[str, float], folder: Path, *, step: int = 30, columns: int = 80) -> list[str]:
    """The lines that stand on a terminal at the end, without the codes that move its cursor."""
    screen = Screen()
    dashboard = Dashboard(first_step=0, last_step=100, folder=folder, stream=screen)
    dashboard.stepped(step, 0.07)
    dashboard.write(step, values)
    before = screen.tell()
    dashboard.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", screen.getvalue()[before:])
    lines = [line.rstrip() for line in plain.splitlines() if line.strip()]
    assert max(map(len, lines)) <= columns
    return lines


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")


def test_the_stream_decides_between_dashboard_and_lines(tmp_path: Path) -> None:
    assert isinstance(terminal(first_step=0, last_step=9, folder=tmp_path, stream=io.StringIO()), LogLines)
    live = terminal(first_step=0, last_step=9, folder=tmp_path, stream=Screen())
    live.close()
    assert isinstance(live, Dashboard)


def test_the_dashboard_tells_everything_in_eight_lines_of_eighty_columns(tmp_path: Path) -> None:
    for step in (10, 20):
        folder = step_folder(tmp_path / "checkpoints", step)
        folder.mkdir(parents=True)
        (folder / "COMPLETE").touch()
    step_folder(tmp_path / "checkpoints", 30).mkdir()
    lines = last_view(EVERYTHING, tmp_path)
    assert len(lines) <= 8
    text = "\n".join(lines)
    for said in ("30%", "30 of 100", "0:00:05 left", "0.5000", "gradient 2", "lr 1.0e-03", "0.6250", "914 samples/s"):
        assert said in text
    for said in ("1.21 TFLOP/s", "MFU 31.2%", "612 MB", "70 ms", "30% waiting for data", "slowest rank 1.25 x mean"):
        assert said in text
    for said in ("1.04 x mean", "12.5% dropped", "50% to other nodes", "3 skipped", "step 20", "7 bad samples"):
        assert said in text
    assert not any("…" in line for line in lines)


def test_the_dashboard_says_nothing_of_what_it_does_not_know(tmp_path: Path) -> None:
    text = "\n".join(last_view({"loss": math.nan}, tmp_path))
    assert "nan" in text
    for word in ("held out", "experts", "speed", "saved", "None", "MFU"):
        assert word not in text


def test_what_others_say_stands_above_the_dashboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    dashboard = Dashboard(first_step=0, last_step=10, folder=tmp_path, stream=screen)
    import sys

    print("a caution", file=sys.stderr)
    dashboard.close()
    assert "a caution" in screen.getvalue()


@each(("first", "last"), [(0, 200), (60, 200), (0, 4), (195, 200)])
def test_a_log_shows_the_first_and_last_step_and_about_ten_between(first: int, last: int) -> None:
    stream = io.StringIO()
    sink = LogLines(first_step=first, last_step=last, stream=stream)
    for step in range(first + 1, last + 1):
        sink.write(step, VALUES)
    steps = [int(step) for step in re.findall(r"step +(\d+)/", stream.getvalue())]
    assert steps[0] == first + 1
    assert steps[-1] == last
    assert len(steps) == len(stream.getvalue().splitlines()) <= 12
    assert len(steps) >= min(10, last - first)


def test_a_line_says_where_the_run_is_and_how_long_it_takes() -> None:
    stream = io.StringIO()
    sink = LogLines(first_step=0, last_step=10_000, stream=stream)
    sink.stepped(1, 0.5)
    sink.write(1, EVERYTHING)
    assert stream.getvalue() == (
        "step     1/10000  loss 0.5000  held-out 0.6250  gradient 2  lr 1.00e-03  914 samples/s  busiest expert 1.04x  "
        "MFU 31.2%  612 MB  3 skipped  1:23:20 left\n"
    )


def test_a_story_keeps_the_later_half_of_a_long_course() -> None:
    story = RunningStatistics(first_step=0, last_step=10**6)
    for step in range(1, 2 * HISTORY):
        story.take(step, {"loss": float(step)})
    course = story.course("loss", 20)
    assert 20 <= len(course) <= HISTORY
    assert course == sorted(course)
    assert course[-1] == 2 * HISTORY - 1
    assert story.course("held_out_loss", 20) == []


def test_a_run_that_is_silent_is_told_from_one_that_is_slow_or_over() -> None:
    clock = Clock()
    story = RunningStatistics(first_step=0, last_step=3, clock=clock)
    assert story.silence_s() == 0
    story.stepped(1, 2.0)
    clock.now += 24
    assert story.silence_s() == 0
    clock.now += 2
    assert story.silence_s() == 26
    story.stepped(3, 2.0)
    clock.now += 99
    assert story.silence_s() == 0
    assert story.left() is None
    assert story.elapsed() == "0:00:26"


SCALED = {0: "0 B", 7: "7 B", 0.25: "0.25 B", 999: "999 B", 999.7: "1.00 kB", 1000: "1.00 kB", 12345: "12.3 kB"}
SCALED |= {99_949: "99.9 kB", 99_960: "100 kB", 999_499: "999 kB", 999_500: "1.00 MB", 6.12e8: "612 MB"}
SCALED |= {1.21e12: "1.21 TB", 3e21: "3000 EB"}


@each(("value", "said"), SCALED.items())
def test_three_digits_and_a_prefix(value: float, said: str) -> None:
    assert scaled(value, "B") == said


@each(("seconds", "said"), [(0.0705, "70 ms"), (1.25, "1.2 s"), (59.9, "59.9 s"), (3725, "1:02:05")])
def test_a_duration_is_in_the_unit_that_suits_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_sparkline_rises_with_its_values() -> None:
    assert sparkline(range(8), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline(range(800), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([3.0], 8) == "▁"
    assert sparkline([], 8) == ""
    assert sparkline([1.0, math.nan, 2.0, math.inf], 8) == "▁×█×"
    assert len(sparkline(range(7), 5)) == 5
