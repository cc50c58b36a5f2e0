"""Surrogates of measured objectives, the rewards that they give, and the stages that measure objects."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from netsim.foundation.refusal import Refusal
from tests.trainer.commands import contents, refused
from tests.trainer.task.test_trajectory_balance import numbers, run_config
from trainer.__main__ import main
from trainer.config.rules.plan import plan_layout
from trainer.config.task.environment import HyperGridConfig, MeasuredFile, MeasureRequest
from trainer.config.task.trajectory_balance import TrajectoryBalanceTaskConfig
from trainer.experiment.built import measuring
from trainer.experiment.stage.prepare import MeasureStage
from trainer.experiment.stage.reading import load_stages
from trainer.experiment.stage.running import check_stages
from trainer.experiment.stage.train import TrainStage
from trainer.model.build import build_model
from trainer.task import TrajectoryBalanceTask
from trainer.task.environment import HyperGrid
from trainer.task.rewards import LENGTHS, NOISE, GaussianProcess, Surrogate
from trainer.training.task import TrainedNetworks

CONFIG = HyperGridConfig(side=4)
GRID = HyperGrid(CONFIG)
FIXED: dict[str, Any] = {"optimizer": None}
STAGES: dict[str, Any] = {
    "model": {"kind": "policy_mlp", "hidden": 16, "num_layers": 1},
    "task": {"environment": {"kind": "hypergrid", "side": 4}, "exponent": 4.0},
    "optim": {"steps": 2, "global_batch": 16},
    "evaluate": {"every": None},
    "sample": {"every": None},
    "observe": {"tensorboard": False},
    "stages": [
        {"name": "one", "measure": {"num": 3}},
        {"name": "policy", "train": {"task": {"log_reward": {"measured": "{run.dir}/one/measured.json"}}}},
        {"name": "two", "measure": {"num": 4, "run": "{run.dir}/policy", "measured": "{run.dir}/one/measured.json"}},
    ],
}


def measured(cells: list[list[int]], config: Any = CONFIG, **changes: Any) -> MeasuredFile:
    rewards = GRID.rewards(torch.tensor(cells)).tolist()
    document = {
        "environment": config.model_dump(mode="json"),
        "objectives": config.objectives,
        "objects": cells,
        "rewards": rewards,
        "rounds": [len(cells)],
    }
    return MeasuredFile.model_validate({**document, **changes})


def test_the_process_is_that_of_scikit_learn() -> None:
    """Same kernel, same noise: expectations, deviations, and of all lengths the likeliest."""
    generator = np.random.default_rng(0)
    places, others = generator.uniform(size=(14, 2)), generator.uniform(size=(9, 2))
    values = np.stack([np.sin(5 * places[:, 0]), places.sum(axis=1) ** 2 + 3], axis=1)
    process = GaussianProcess.fitted(torch.tensor(places), torch.tensor(values))
    expected, spread = process(torch.tensor(others))
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    unit = float(torch.tensor(distances[distances > 0]).median())
    for objective in range(2):
        scaled = (values[:, objective] - values[:, objective].mean()) / values[:, objective].std()
        fitted = [
            GaussianProcessRegressor(Matern(length * unit, (1e-5, 1e5), 2.5), alpha=NOISE, **FIXED).fit(places, scaled)
            for length in LENGTHS
        ]
        likelihoods = [one.log_marginal_likelihood_value_ for one in fitted]
        number = likelihoods.index(max(likelihoods))
        best = fitted[number]
        assert float(process.lengths[objective]) == pytest.approx(LENGTHS[number] * unit)
        mean, deviation = best.predict(others, return_std=True)
        of_values = values[:, objective]
        assert expected[:, objective].numpy() == pytest.approx(of_values.mean() + of_values.std() * mean, rel=1e-6)
        assert spread[:, objective].numpy() == pytest.approx(of_values.std() * deviation, rel=1e-5)


def test_a_bound_is_the_measured_value_where_it_is_measured_and_higher_elsewhere() -> None:
    file = measured([[0, 0], [3, 1], [1, 2]])
    at = Surrogate(GRID, file, 2.0).rewards(torch.tensor(file.objects))
    assert at.numpy() == pytest.approx(np.array(file.rewards), abs=0.03)
    plain, high = (Surrogate(GRID, file, deviations).rewards(GRID.cells()) for deviations in (0.0, 2.0))
    assert bool((high >= plain).all())
    assert float((high - plain).amax()) > 0.05
    one = Surrogate(GRID, measured([[1, 1]]), 1.0).rewards(GRID.cells())
    assert bool(one.isfinite().all()), "one object is enough"


def test_a_policy_learns_from_the_surrogate_without_a_call_of_the_objectives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "measured.json"
    measured([[0, 0], [3, 1], [1, 2]]).write(path)
    config = run_config(log_reward={"kind": "surrogate", "measured": str(path)})
    task, network = TrajectoryBalanceTask(config), build_model(config, plan_layout(config, 1))

    def called(_: HyperGrid, states: torch.Tensor) -> torch.Tensor:
        raise AssertionError(f"{len(states)} calls")

    monkeypatch.setattr(HyperGrid, "rewards", called)
    (collected,) = task.collect(task.draw([numbers(0, 8)], [torch.Generator()]), TrainedNetworks(network))
    assert collected.valued is not None
    assert collected.walks is not None
    bounds = Surrogate(GRID, MeasuredFile.read(path), 2.0).rewards(collected.walks.objects)
    expected = 3.0 * (bounds * collected.preferences.weights).sum(1).log()
    assert torch.allclose(collected.valued.log_reward, expected)
    assert task.state()["reward_calls"] == 0
    task.built(network, task.preferences(1), 4)
    assert "3 measured objects" in task.rewards_are


def test_what_cannot_be_learned_from_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "measured.json"
    config = run_config(log_reward={"kind": "surrogate", "measured": str(path)})
    with pytest.raises(Refusal, match=r"measured.json: file: cannot be read .*; write it with a stage of kind measure"):
        plan_layout(config, 1)
    measured([[0, 0]], HyperGridConfig(side=5)).write(path)
    with pytest.raises(Refusal, match=r"environment.side: is 5, and task.environment.side of the run is 4; measure"):
        plan_layout(config, 1)
    measured([[0, 0]]).write(path)
    assert isinstance(config.task, TrajectoryBalanceTaskConfig)
    assert config.task.log_reward is not None
    pinned = run_config(log_reward=config.task.log_reward.pinned().model_dump())
    plan_layout(pinned, 1)
    measured([[0, 1]]).write(path)
    with pytest.raises(Refusal, match=r"digest: is .*, and the run began with .*; bring the file back"):
        plan_layout(pinned, 1)
    with pytest.raises(ValueError, match=r"2 objects have 2 rewards in rounds of 3"):
        measured([[0, 0], [0, 1]], rounds=[3])
    assert "log_reward" not in run_config().task.model_dump(), "runs without one keep their identity"


def test_objectives_must_be_numbers_from_0_to_1() -> None:
    class Wrong(HyperGrid):
        def rewards(self, states_BS: torch.Tensor) -> torch.Tensor:
            return torch.full((len(states_BS), 2), float("nan"))

    with pytest.raises(ValueError, match=r"environment.rewards: branin of \[1, 2\] is nan; give a number from 0 to 1"):
        measuring.measured(Wrong(CONFIG), torch.tensor([[1, 2]]))


def test_new_objects_are_new_and_follow_their_seed() -> None:
    request = MeasureRequest(environment=CONFIG, num=6)
    first = measuring.new_objects(request, GRID, None, ())
    assert torch.equal(first, measuring.new_objects(request, GRID, None, ()))
    known = tuple(map(tuple, first.tolist()))
    second = tuple(map(tuple, measuring.new_objects(request, GRID, None, known).tolist()))
    assert len({*known, *second}) == 12
    every = tuple(map(tuple, GRID.cells().tolist()))
    with pytest.raises(ValueError, match=r"tries: none of 300 objects is new beside the 16 measured ones; raise"):
        measuring.new_objects(request, GRID, None, every)


def test_stages_wait_for_what_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "stages.yaml"
    path.write_text(yaml.safe_dump({**STAGES, "run": {"dir": str(tmp_path / "run")}}))
    one, policy, two = stages = load_stages(path)
    assert isinstance(one, MeasureStage)
    assert isinstance(policy, TrainStage)
    assert isinstance(two, MeasureStage)
    assert one.request().environment == CONFIG, "that of the task beside the stages"
    assert policy.awaited(stages) == [one]
    assert two.awaited(stages) == [one, policy]
    check_stages(stages, 1)
    before = contents(tmp_path)
    for override, complaint in {
        "stages.two.run=elsewhere": "stages.two.run: there is no run in elsewhere; give the folder of an earlier stage",
        "stages.one.num=0": "stages.one.num",
        "stages.one.measured=missing.json": "missing.json: file: cannot be read",
        "stages.one.nums=3": "stages.one.nums",
    }.items():
        assert complaint in refused(capsys, "check", path, override)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_rounds_are_measured_and_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = tmp_path / "stages.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump({**STAGES, "run": {"dir": str(run)}}))
    assert main(["train", str(path)]) == 0
    first, second = (MeasuredFile.read(run / name / "measured.json") for name in ("one", "two"))
    assert (first.rounds, second.rounds) == ((3,), (3, 4))
    assert second.objects[:3] == first.objects
    assert len(set(second.objects)) == 7
    assert np.array(second.rewards) == pytest.approx(GRID.rewards(torch.tensor(second.objects)).numpy())
    (last,) = [line for line in (run / "policy" / "metrics.jsonl").read_text().splitlines() if '"step": 2' in line][:1]
    assert json.loads(last)["reward_calls"] == 0
    before = contents(run)
    assert main(["train", str(path)]) == 0, "all is finished"
    assert contents(run) == before
    line = refused(capsys, "train", path, "stages.two.num=5")
    assert "measured.json: num: stage two was made with 4, and the configuration now asks for 5" in line
    measured([[0, 0]], HyperGridConfig(side=5)).write(run / "one" / "measured.json")
    assert "environment" in refused(capsys, "train", path)
