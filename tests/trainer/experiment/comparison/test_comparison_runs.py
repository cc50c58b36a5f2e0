"""The runs of a comparison: how they are started and stopped, measured once, and started again by hand."""

import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from netsim.foundation.page import Listing
from tests.each import each
from tests.forked import ROOT
from trainer.__main__ import main
from trainer.data import ToyConfig
from trainer.distributed.process.children import Stopped, Supervisor
from trainer.distributed.process.signals import EX_TEMPFAIL, SIGNALS
from trainer.experiment.comparison import measurement, training
from trainer.experiment.comparison.measurement import MeasurementSpec, measure_network
from trainer.experiment.comparison.method import training_seconds
from trainer.experiment.comparison.page import reproduction
from trainer.experiment.comparison.results import Comparison, Entry, Outcome
from trainer.experiment.comparison.run import prepare
from trainer.experiment.comparison.training import LOG, TimeLeft, Training, folder_of, last_line
from trainer.experiment.stage.reading import load_stages
from trainer.experiment.stage.train import TrainStage
from trainer.observe.metrics import Record

BASE: dict[str, Any] = {
    "run": {"dir": "unused", "seed": 3},
    "data": {"kind": "toy", "name": "moons", "held_out": 20},
    "model": {"kind": "mlp", "hidden": 16, "num_layers": 1},
    "optim": {"steps": 6, "global_batch": 8},
}
LISTENING = """
import os, pathlib, signal, sys, time
def told(number, _):
    pathlib.Path(sys.argv[1]).write_text(str(number))
    sys.exit(75)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, told)
os.kill(os.getppid(), int(sys.argv[2]))
for _ in range(400):
    time.sleep(0.05)
"""
"""A run that tells the comparison to stop, and is told by it."""


@pytest.fixture
def unharmed() -> Iterator[None]:
    """What a broken comparison lets through does not end the tests."""
    before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def written(folder: Path, name: str, **sections: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**BASE, **sections}))
    return path


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_comparison_that_is_told_to_stop_tells_its_run_and_wants_to_go_on(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = tmp_path / "heard"
    child = [sys.executable, "-c", LISTENING, str(heard), str(int(number))]
    monkeypatch.setattr(training, "killed_with_parent", lambda _: child)
    one, other = (
        written(tmp_path, name, flow={"coupling": {"kind": kind}})
        for name, kind in (("one", "independent"), ("other", "minibatch_ot"))
    )
    words = [str(one), str(other), "--base", str(one), "--seeds", "1", "--out", str(tmp_path / "out")]
    assert main(["compare", *words]) == EX_TEMPFAIL
    assert heard.read_text() == str(int(number))
    assert not (tmp_path / "out" / "other" / "seed_3").exists(), "another run has begun"
    assert not (tmp_path / "out" / "compare.json").exists()


def test_a_run_that_has_just_been_started_is_told_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor, start = Supervisor(), subprocess.Popen
    telling = threading.Thread(target=supervisor.pass_on, args=(signal.SIGTERM,))

    def told_while_starting(*_: Any, **named: Any) -> Any:
        child = start([sys.executable, "-c", "import time; time.sleep(20)"], **named)
        telling.start()
        telling.join(timeout=0.2)
        return child

    monkeypatch.setattr(subprocess, "Popen", told_while_starting)
    path = written(tmp_path, "plain")
    (method,) = prepare([str(path)], path, tmp_path / "out", 1).methods
    with pytest.raises(Stopped):
        Training(supervisor, 1, 1, TimeLeft([], 1)).run(method, path, tmp_path / "run", 3, lambda _: None)


@each(
    ("ranks", "jobs", "own", "each"),
    [(1, 1, None, "8"), (1, 3, None, "2"), (2, 2, None, "2"), (16, 1, None, "1"), (1, 4, "5", "5")],
)
def test_the_processes_of_a_comparison_share_the_threads_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, jobs: int, own: str | None, each: str
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    printing = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    monkeypatch.setattr(training, "killed_with_parent", lambda _: printing)
    path = written(tmp_path, "plain")
    (method,) = prepare([str(path)], path, tmp_path / "out", 1).methods
    Training(Supervisor(), ranks, jobs, TimeLeft([], jobs)).run(method, path, tmp_path / "run", 3, lambda _: None)
    assert last_line(tmp_path / "run" / LOG) == each


def test_samples_that_start_at_data_are_left_out(tmp_path: Path) -> None:
    base, mirror = written(tmp_path, "base"), written(tmp_path, "mirror", flow={"path": {"kind": "mirror_interpolant"}})
    found = prepare([str(base), str(mirror)], base, tmp_path / "out", 1)
    assert [method.name for method in found.methods] == ["base"]
    assert "flow.path.kind: its samples start at data" in found.left_out["mirror"]


def test_the_time_of_training_is_that_of_every_step() -> None:
    records = [Record(1, {"time.step_s": 2.0}), Record(4, {"time.step_s": 0.5}), Record(5, {"loss": 1.0})]
    assert training_seconds([*records, Record(10, {"time.step_s": 0.1})]) == pytest.approx(2.0 + 3 * 0.5 + 5 * 0.1)
    assert training_seconds([]) == 0.0


class Figures:
    """Of a network with fewer evaluations and samples than are asked for."""

    def to_dict(self) -> dict[str, Any]:
        return {"num": 20, "results": [{"sampler": "segmented", "evaluations": 4}]}


def test_a_network_is_measured_once_whatever_it_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[dict[str, Any]] = []

    class Opened:
        config = task = model = None
        checkpoint = "step_00000001"

        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> "Opened":
            return self

        def __exit__(self, *_: Any) -> None: ...

    def evaluate(*_: Any, **named: Any) -> Figures:
        measured.append(named)
        return Figures()

    newest = Path("step_00000001")
    monkeypatch.setattr(measurement, "newest_checkpoint", lambda _: newest)
    monkeypatch.setattr(measurement, "opened", Opened)
    monkeypatch.setattr(measurement, "evaluate", evaluate)
    monkeypatch.setattr(measurement, "_drawn", lambda *_: {})

    def measure(evaluations: tuple[int, ...] = (1, 4), num: int = 40, seed: int = 0) -> int:
        spec = MeasurementSpec(evaluations, num, ToyConfig(kind="toy"))
        assert measure_network(tmp_path, spec, seed, lambda _: None) == Figures().to_dict()
        return len(measured)

    assert [measure(), measure()] == [1, 1]
    assert [measure(evaluations=(1, 4, 8)), measure(num=50), measure(num=50, seed=1)] == [2, 3, 4]
    newest = Path("step_00000002")
    assert [measure(num=50, seed=1), measure(num=50, seed=1)] == [5, 5]


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_the_page_says_trains_the_very_run_and_measures_it_by_the_data_compared(
    ranks: int, tmp_path: Path
) -> None:
    path, out = ROOT / "configs" / "methods" / "rectified_flow.yaml", tmp_path / "two words"
    base = written(tmp_path, "base")
    (method,) = prepare([str(path)], base, out, ranks).methods
    config = out / method.name / "method.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(method.to_yaml())
    folder = folder_of(config, 3)
    results = [{"sampler": "euler", "evaluations": 1, "figures": {"wasserstein_2": 1.0}}]
    outcome = Outcome(3, str(folder / "reflow"), 1.0, 0.0, 0.1, {"results": results})
    entry = Entry("rf reflow", "", None, str(path), str(config), "euler", 6, 10, (outcome,))
    data = {"kind": "toy", "name": "moons"}
    section = reproduction(
        Comparison("compare x", str(base), data, 6, 8, ranks, 1, 40, "wasserstein_2", (1.0,), None, (entry,), {})
    )
    (listing,) = section.blocks
    assert isinstance(listing, Listing)
    lines = [shlex.split(line, comments=True) for line in listing.text.splitlines()]
    trained = [words for words in lines if "train" in words]
    (measured,) = (words for words in lines if "evaluate" in words)
    assert [words[words.index("--stage") + 1] for words in trained] == ["teacher", "pairs", "reflow"]
    wanted = [stage.folder for stage in method.stages(folder, 3)]
    for words in trained:
        assert ("torch.distributed.run" in words) == (ranks > 1)
        assert ranks == 1 or words[words.index("--nproc-per-node") + 1] == str(ranks)
        at = words.index("train") + 1
        stages = load_stages(words[at], words[at + 1 : words.index("--stage")])
        assert [stage.folder for stage in stages] == wanted
        assert isinstance(stages[0], TrainStage)
        assert stages[0].document["run"]["seed"] == 3
    assert measured[measured.index("evaluate") + 1] == outcome.run_dir
    assert measured[measured.index("--data-from") + 1] == str(folder / "teacher")
