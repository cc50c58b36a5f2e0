"""Which steps are refused, and what becomes of a run in which some are."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.forked import ROOT, command
from tests.trainer.commands import ALONE, DIGITS
from tests.trainer.runs import assert_equal_folders, timeless, torchrun
from trainer.config.sections import GuardConfig
from trainer.data.builtin import DigitsConfig
from trainer.data.loader import Loader
from trainer.observe.metrics import read_metrics
from trainer.observe.speed import Stragglers
from trainer.training.guard import Guard

SMALL = ("model.num_layers=1", "model.hidden=32", "moe.expert_hidden=16", "observe.log_every=1", "trace.steps=[]")
SETTINGS = (
    *SMALL,
    "model.dropout=0.1",
    "moe.router={kind: top_k, bias_rate: 0.01, score: sigmoid}",
    "optim.steps=6",
    "optim.global_batch=32",
    "optim.micro_batch=8",
    "checkpoint.every=100",
    "evaluate.every=6",
    "sample.every=null",
)
DISTURBED = ROOT / "tests" / "trainer" / "training" / "disturbed_run.py"
SPOILT = "3:1:NaN;4:1:NaN"


def judge(tmp_path: Path, **settings: Any) -> Guard:
    return Guard(GuardConfig(**settings), tmp_path / "guard")


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(tmp_path: Path, broken: float) -> None:
    guard = judge(tmp_path)
    assert guard.objection([1.0, 2.0], 3.0) is None
    assert guard.objection([1.0, broken, broken], 3.0) == "the loss is not finite on ranks 1, 2"
    assert guard.objection([1.0, 2.0], broken) == "the gradient is not finite"


def test_a_spike_is_judged_by_the_median_of_the_steps_that_were_taken(tmp_path: Path) -> None:
    guard = judge(tmp_path, spike_factor=3.0, spike_window=5)
    history = np.random.default_rng(0).uniform(1.0, 2.0, [40, 2])
    for number, (loss, norm) in enumerate(history):
        recent = np.median(history[max(0, number - 5) : number], axis=0) if number >= 5 else None
        for factor in (2.9, 3.1):
            allowed = recent is None or factor < 3
            about = history[number] if recent is None else recent
            assert (guard.objection([factor * about[0]], about[1]) is None) == allowed
            assert (guard.objection([about[0]], factor * about[1]) is None) == allowed
        guard.skip(1000 + number)  # changes no median
        guard.taken([loss - 0.5, loss + 0.5], norm)
    assert (
        guard.objection([100.0], 1.0)
        == f"the loss is 100, {100 / np.median(history[-5:, 0]):.1f} times the median of 5 steps"
    )


def test_nothing_is_a_spike_unless_asked(tmp_path: Path) -> None:
    guard = judge(tmp_path)
    for _ in range(200):
        guard.taken([1.0], 1.0)
    assert guard.objection([1e30], 1e30) is None


def test_a_loaded_guard_judges_as_the_saved_one(tmp_path: Path) -> None:
    settings = {"spike_factor": 2.0, "spike_window": 4, "abort_after": 3}
    saved, loaded = judge(tmp_path, **settings), judge(tmp_path, **settings)
    for value in (1.0, 2.0, 3.0, 4.0, 5.0):
        saved.taken([value], 2 * value)
    saved.skip(6)
    saved.skip(7)
    loaded.load(json.loads(json.dumps(saved.state())))
    for value in np.linspace(1, 20, 77):
        assert saved.objection([value], value) == loaded.objection([value], value)
    assert (loaded.skipped, loaded.in_a_row, loaded.failure) == (2, 2, None)
    loaded.skip(8)
    assert loaded.failure is not None
    assert str(tmp_path / "guard" / "step_00000008.json") in loaded.failure


def test_the_spread_is_that_of_the_steps_between_two_records(capsys: pytest.CaptureFixture[str]) -> None:
    stragglers = Stragglers(factor=1.5)
    stragglers.take([1.0, 1.0, 1.0, 1.0])
    assert stragglers.figures(1) == {"time.step_spread": 1.0}
    assert capsys.readouterr().err == ""
    for own_s in ([1.0, 1.0, 5.0, 1.0], [1.0, 1.0, 3.0, 3.0]):
        stragglers.take(own_s)
    assert stragglers.figures(3) == {"time.step_spread": 2.0}
    line = capsys.readouterr().err
    assert (
        line
        == "rank 2 is slow: its data and forward passes took 2.0 times the mean of the ranks in the 2 steps up to 3\n"
    )
    stragglers.take([1.0, 1.0, 9.0, 1.0])
    assert stragglers.figures(4) == {"time.step_spread": 3.0}
    assert capsys.readouterr().err == "", "once in a while is enough"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A run with two broken steps."""
    folder = tmp_path_factory.mktemp("straight")
    settings = "train", DIGITS, *SETTINGS, f"run.dir={folder}"
    return folder, command(*settings, ranks=2, program=DISTURBED, DISTURB=SPOILT)


def test_a_broken_step_is_skipped_and_written_down(straight: tuple[Path, Any]) -> None:
    folder, result = straight
    assert result.returncode == 0, result.stderr
    noted = sorted((folder / "guard").iterdir())
    assert [path.name for path in noted] == ["step_00000003.json", "step_00000004.json"]
    content = json.loads(noted[0].read_text())
    assert content["step"] == 3
    assert content["reason"] == "the loss is not finite on rank 1"
    for rank in range(2):
        loader = Loader(DigitsConfig().open(), global_batch=32, micro_batch=8, rank=rank, world_size=2, seed=0)
        assert content["examples"][rank] == [loader.batch(2, local).ids.tolist() for local in range(2)]
    assert [[isinstance(loss, float) for loss in of_rank] for of_rank in content["losses"]] == [
        [True] * 2,
        [False, True],
    ]
    records = read_metrics(folder / "metrics.jsonl")
    assert [record.values["skipped_steps"] for record in records] == [0, 0, 1, 2, 2, 2]
    assert [math.isfinite(record.values["loss"]) for record in records] == [n not in (3, 4) for n in range(1, 7)]
    assert "step 3 is skipped: the loss is not finite on rank 1; see " in result.stderr


@pytest.mark.slow  # torchrun starts two ranks twice; test_stages has a run that is stopped and goes on
def test_a_run_that_was_told_to_stop_goes_on_as_if_it_had_not(straight: tuple[Path, Any], tmp_path: Path) -> None:
    folder, whole = tmp_path, straight[0]
    again = str(DISTURBED), "train", DIGITS, *SETTINGS, f"run.dir={folder}"
    stopped = torchrun("--max-restarts=1", *again, DISTURB=f"{SPOILT};3:1:SIGUSR2")
    assert stopped.returncode == 0, stopped.stderr
    assert "exitcode: 75" in stopped.stderr.replace(" ", "").replace("exitcode:", "exitcode: ")
    assert "resumes after step 3" in stopped.stderr, "one rank was told, all saved, and torchrun started them again"
    assert timeless(whole / "metrics.jsonl") == timeless(folder / "metrics.jsonl")
    assert_equal_folders(whole / "checkpoints" / "step_00000006", folder / "checkpoints" / "step_00000006")
    assert_equal_folders(whole / "guard", folder / "guard")


@pytest.mark.slow
def test_a_launcher_that_is_stopped_leaves_a_saved_run(straight: tuple[Path, Any], tmp_path: Path) -> None:
    again = "train", DIGITS, *SETTINGS, f"run.dir={tmp_path}"
    stopped = torchrun(str(DISTURBED), *again, DISTURB=f"{SPOILT};3:0:SIGTERM agent")
    assert stopped.returncode == 1, "torchrun's own, whatever its ranks return"
    saved = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert saved == ["step_00000003"], "the step in which the signal came was finished and saved"
    resumed = command(*again, ranks=2, program=DISTURBED, DISTURB=SPOILT)
    assert resumed.returncode == 0, resumed.stderr
    whole = straight[0] / "checkpoints" / "step_00000006"
    assert_equal_folders(whole, tmp_path / "checkpoints" / "step_00000006")


def alone(folder: Path, disturb: str, *overrides: str) -> Any:
    """Trains in one process without a launcher."""
    settings = "train", DIGITS, *ALONE, *SMALL, "optim.global_batch=16", *overrides, f"run.dir={folder}"
    return command(*settings, program=DISTURBED, DISTURB=disturb)


def test_a_run_gives_up_after_so_many_skipped_steps(tmp_path: Path) -> None:
    result = alone(tmp_path, "2:0:NaN;4:0:NaN;5:0:NaN;6:0:NaN", "optim.steps=9", "guard.abort_after=3")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"trainer train: guard.abort_after: the last 3 steps were skipped; {tmp_path / 'guard' / 'step_00000006.json'} "
        "says what the last one was made of"
    )
    assert "Traceback" not in result.stderr
    assert [record.step for record in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 7))


def test_a_single_process_saves_and_says_that_it_was_stopped(tmp_path: Path) -> None:
    result = alone(tmp_path, "2:0:SIGTERM", "optim.steps=9")
    assert result.returncode == 75, result.stderr
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]
    farewell = f"{tmp_path}: stopped by SIGTERM; saved at step 2; start it again to resume"
    assert farewell in result.stderr.splitlines()


def test_a_run_that_fails_leaves_what_it_did(tmp_path: Path) -> None:
    result = alone(tmp_path, "2:0:raise", "optim.steps=9")
    assert result.returncode == 1
    stacks = (tmp_path / "debug" / "rank_00000_stacks.txt").read_text()
    assert "lightning struck" in stacks
    flights = json.loads((tmp_path / "debug" / "rank_00000_flights.json").read_text())
    assert any("all_reduce" in entry["profiling_name"] for entry in flights["entries"])


@pytest.mark.slow  # ranks that wait for each other; test_vigil has the same without a run
def test_a_rank_that_never_comes_to_a_collective_is_named_by_those_that_wait(tmp_path: Path) -> None:
    settings = (DIGITS, *SMALL, "moe=null", "parallel.expert=1", "optim.steps=3", "sample.every=null")
    limits = "guard.collective_timeout_s=8", f"run.dir={tmp_path}"
    result = torchrun(str(DISTURBED), "train", *settings, *limits, DISTURB="2:1:hang")
    assert result.returncode == 1
    stacks = [tmp_path / "debug" / f"rank_0000{rank}_stacks.txt" for rank in range(2)]
    said = re.search(
        r"^rank 0 (waited too long in (\w+) of (\w+) \(ranks 0, 1\) for rank 1, .*); see (.*)$", result.stderr, re.M
    )
    assert said is not None, result.stderr
    reason, operation, group, file = said.groups()
    assert Path(file) == stacks[0]
    waits, hangs = (path.read_text() for path in stacks)
    assert reason in waits.splitlines()[0]
    assert "timed out" in waits.lower()
    last = json.loads((tmp_path / "debug" / "rank_00000_flights.json").read_text())["entries"][-1]
    assert (last["profiling_name"], last["process_group"][1]) == (f"gloo:{operation}", group)
    assert last["timeout_ms"] == 8000
    assert "still in its step 1 s after the request to stop" in hangs.splitlines()[0]
    assert "in stay_away" in hangs
