"""What the evaluate verb measures of a policy that builds objects."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from rich.console import Console

from tests.forked import ROOT
from tests.trainer.task.enumeration import Enumerated, action_probabilities, total_variation
from tests.trainer.task.test_trajectory_balance import OfStates, run_config
from trainer.config.rules.plan import plan_layout
from trainer.evaluation.pareto_page import ParetoMeasurement
from trainer.model.build import build_model
from trainer.observe.measurement import MeasurementSpec
from trainer.task import TrajectoryBalanceTask
from trainer.task.objects import divisions
from trainer.task.rewards import Preferences
from trainer.training.task import TrainedNetworks

SCHEMA = json.loads((ROOT / "configs" / "schemas" / "objects.schema.json").read_text())
SPEC = MeasurementSpec((1,), num=60, checkpoint="step_00000001")
GRID = {"kind": "hypergrid", "side": 4}
WORDS = {"kind": "ngram", "alphabet": "AB", "length": 4, "least_length": 2, "objectives": ["AB", "BB", "BA"]}


def measured(task: TrajectoryBalanceTask, model: Any) -> ParetoMeasurement:
    found = task.measure(TrainedNetworks(model), SPEC, lambda _: None)
    assert isinstance(found, ParetoMeasurement)
    jsonschema.validate(json.loads(json.dumps(found.to_dict(), allow_nan=False)), SCHEMA)
    return found


def test_an_exact_policy_is_as_wanted() -> None:
    task = TrajectoryBalanceTask(run_config(preferences={"kind": "single", "weights": (0.3, 0.7)}))
    known = Enumerated.of(task.environment)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    every = Preferences(weights.expand(16, -1), torch.full((16,), 3.0, dtype=torch.float64))
    valued = task.log_reward(known.states, every)
    logits, log_z = known.flows(valued.log_reward)
    model = OfStates(known, logits.clamp(min=-1e5), log_z)
    model.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    found = measured(task, model).figures
    (one,) = found.preferences
    assert one.exact is not None
    assert one.exact.total_variation == pytest.approx(0.0, abs=1e-9)
    assert one.exact.log_partition_error == pytest.approx(0.0, abs=1e-9)
    wanted, _ = known.wanted(valued.log_reward)
    assert one.exact.wanted == pytest.approx(float(wanted @ valued.figures["reward"]))
    assert one.reward == pytest.approx(one.exact.wanted, abs=0.1)
    assert found.indicators["built"]["hypervolume"] <= found.indicators["all"]["hypervolume"]


@pytest.mark.parametrize("environment", [GRID, WORDS], ids=["grid", "words"])
def test_figures_table_and_page(environment: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """An untrained policy builds what even choices lead to; its distance is that by enumeration."""
    config = run_config(environment=environment)
    task = TrajectoryBalanceTask(config)
    measurement = measured(task, build_model(config, plan_layout(config, 1)).eval())
    found = measurement.figures
    known, names = Enumerated.of(task.environment), task.environment.objectives
    built = known.terminating(
        action_probabilities(known, lambda features: torch.zeros(len(features), task.environment.num_actions))
    )
    assert len(found.preferences) == (11 if len(names) == 2 else 15)
    for one in found.preferences:
        assert one.exact is not None
        weights = torch.tensor([one.weights], dtype=torch.float64).expand(len(known.states), -1)
        asked = Preferences(weights, torch.full((len(weights),), 3.0, dtype=torch.float64))
        wanted, log_z = known.wanted(task.log_reward(known.states, asked).log_reward)
        assert one.exact.total_variation == pytest.approx(total_variation(built, wanted), abs=1e-6)
        assert one.exact.log_partition_error == pytest.approx(abs(log_z), abs=1e-6), "its log Z is 0"
        assert one.reward == pytest.approx(float((one.rewards @ np.array(one.weights)).mean()))
        assert one.best >= one.reward
    Console(width=100).print(measurement.table())
    shown = capsys.readouterr().out
    assert f"{found.preferences[0].reward:.4f}" in shown
    assert "…" not in shown, "nothing is cut off"
    page = measurement.page(ROOT / "runs" / "grid", None)
    assert all(f">{name}</" in page for name in names)
    assert f"{found.indicators['built']['hypervolume']:.4f}" in page
    assert "What it builds, cell by cell" not in page, "there is no picture"


def test_there_are_few_preferences() -> None:
    assert [divisions(num) for num in (1, 2, 3, 4, 5, 16, 40)] == [10, 10, 4, 2, 2, 1, 1]
