"""The trace verb for steps of reinforcement learning: which steps have rollouts, and how much is sent in them."""

from collections import Counter
from pathlib import Path

import pytest

from moe.collective_trace import read
from tests.each import each
from trainer.__main__ import main

DIGITS = "configs/runs/digits_moe.yaml"
GRPO = "task={kind: grpo, reward: {kind: ink}, steps: 4, group: 6, updates: 2, kl: 0}"


def traced(out: Path, *options: str) -> int:
    return main(["trace", DIGITS, "--world-size", "4", *options, GRPO, "model.init_from=unused", "--out", str(out)])


def test_the_first_step_of_a_cycle_is_written_unless_others_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = []
    for steps, said in (("1", "rollouts in step 1"), ("2", "none has rollouts"), ("1,2,3", "rollouts in steps 1, 3")):
        out = tmp_path / f"{len(counts)}.jsonl"
        assert traced(out, "--steps", steps) == 0
        assert said in capsys.readouterr().out
        counts.append(Counter(record.step for record in read(out)[1] if record.phase == "rollout"))
    assert [sorted(count) for count in counts] == [[1], [], [1, 3]]
    assert counts[0][1] == counts[2][1] == counts[2][3]
    sent: Counter[str] = Counter()  # in a cycle of two steps: four calls in rollouts, and losses at three states
    for record in read(tmp_path / "2.jsonl")[1]:
        if record.step < 3 and record.op == "all_to_all" and record.dtype == "float32":
            sent[record.phase] += record.bytes_in
    assert sent["rollout"] * 3 == sent["forward"] * 4
    assert traced(tmp_path / "default.jsonl") == 0
    assert (tmp_path / "default.jsonl").read_bytes() == (tmp_path / "0.jsonl").read_bytes()


@each("steps", ["0", "one", "1,", "-1", ""])
def test_steps_that_are_no_steps_are_refused(steps: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert traced(tmp_path / "trace.jsonl", f"--steps={steps}") == 2
    assert "--steps: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_steps_are_none_of_a_drawing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["trace", DIGITS, "--world-size", "4", "--sampling", "{kind: euler, steps: 2}", "--steps", "2"]
    assert main([*options, "--out", str(tmp_path / "trace.jsonl")]) == 2
    assert "steps of training" in capsys.readouterr().err
