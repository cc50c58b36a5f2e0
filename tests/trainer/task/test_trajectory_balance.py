"""Trajectory balance: preferences, scalarisations, the loss of exact flows, and short runs."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from tests.each import each
from tests.trainer.commands import refused
from tests.trainer.runs import timeless, torchrun
from tests.trainer.task.enumeration import Enumerated, action_probabilities, total_variation
from trainer.__main__ import main
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import Batch
from trainer.model.build import build_model
from trainer.model.mlp import Policy
from trainer.model.network import Network
from trainer.task import TrajectoryBalanceTask
from trainer.task.rewards import Preferences, dirichlet, lattice, log_scalar, thermometer
from trainer.training.task import TrainedNetworks

SMALL = {"kind": "hypergrid", "side": 4}


def run_config(**task: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"kind": "policy_mlp", "hidden": 48, "num_layers": 1},
            "task": {"environment": SMALL, "exponent": 3.0, **task},
            "optim": {"steps": 1, "global_batch": 1},
        }
    )


def numbers(first: int, num: int) -> Batch:
    ids = torch.arange(first, first + num)
    return Batch(ids[:, None], None, ids)


class OfStates(nn.Module):
    """A policy that is a table over the features of all states."""

    def __init__(self, known: Enumerated, logits: Tensor, log_partition: float) -> None:
        super().__init__()
        self.features, self.logits, self.log_partition = known.environment.features(known.states), logits, log_partition

    def forward(self, features: Tensor, condition: Tensor) -> Policy:
        place = (features[:, :, None] == self.features).all(-1).int().argmax(-1)
        logits = self.logits[place]
        log_partition = torch.full((len(condition),), self.log_partition, dtype=torch.float64)
        return Policy(logits, torch.zeros_like(logits[..., 1:]), log_partition)


def test_weights_are_of_the_dirichlet_distribution() -> None:
    """Means 1 / K and variances (K - 1) / (K^2 (K a + 1)), by closed form."""
    keys = fold_in(torch.tensor(0), torch.arange(8000))
    for concentration, num in ((0.3, 2), (1.0, 3), (4.0, 3)):
        weights = dirichlet(keys, num, concentration)
        assert torch.allclose(weights.sum(1), torch.ones(len(keys), dtype=torch.float64))
        variance = (num - 1) / (num**2 * (num * concentration + 1))
        assert weights.mean(0).tolist() == pytest.approx([1 / num] * num, abs=5 * math.sqrt(variance / len(keys)))
        assert weights.var(0).tolist() == pytest.approx([variance] * num, rel=0.08)
    assert torch.equal(dirichlet(keys[5:9], 3, 1.0), dirichlet(keys, 3, 1.0)[5:9]), "a row is a function of its key"


def test_a_thermometer_fills_from_below_and_keeps_the_value() -> None:
    values = torch.tensor([0.0, 0.013, 0.5, 0.999, 1.0], dtype=torch.float64)
    codes = thermometer(values, 50)
    assert codes.shape == (5, 50)
    assert bool((codes[:, :-1] >= codes[:, 1:]).all())
    assert (codes.sum(1) / 50).tolist() == pytest.approx(values.tolist(), abs=1e-6)
    assert (thermometer(32 * values, 10, 32.0).sum(1) / 10).tolist() == pytest.approx(values.tolist(), abs=1e-6)


def test_preferences_of_a_lattice() -> None:
    assert lattice(2, 2).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    assert len(lattice(3, 4)) == math.comb(6, 2)
    assert bool((lattice(3, 4).sum(1) == 1).all())
    assert lattice(1, 7).tolist() == [[1]]


def test_scalarisations_by_hand() -> None:
    rewards = torch.tensor([[0.25, 1.0], [0.0, 0.5]], dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.5], [0.25, 0.75]], dtype=torch.float64)
    found = {
        kind: log_scalar(rewards, weights, kind, 1e-80).exp().tolist()
        for kind in ("weighted_sum", "weighted_log_sum", "tchebycheff")
    }
    assert found["weighted_sum"] == pytest.approx([0.625, 0.375])
    assert found["weighted_log_sum"] == pytest.approx([0.5, 1e-20 * 0.5**0.75])
    assert found["tchebycheff"] == pytest.approx([1 - 0.5 * 0.75, 1 - 0.75 * 0.5])
    nothing = torch.zeros(1, 2, dtype=torch.float64)
    assert float(log_scalar(nothing, weights[:1], "weighted_sum", 1e-80)) == pytest.approx(-80 * math.log(10))


@each("backward", ["learned", "uniform"])
@each(
    "environment",
    [
        {"kind": "hypergrid", "side": 5},
        {"kind": "ngram", "alphabet": "AB", "length": 4, "least_length": 2, "objectives": ["AB", "BB"]},
    ],
    ids=["grid", "words"],
)
def test_exact_flows_have_no_loss(environment: dict[str, Any], backward: str) -> None:
    """Flows by dynamic programming: all parents alike, and log Z the logarithm of the sum of all rewards."""
    weights = [0.3, 0.7]
    task = TrajectoryBalanceTask(
        run_config(environment=environment, backward=backward, preferences={"kind": "single", "weights": weights})
    )
    known = Enumerated.of(task.environment)
    exponent = torch.full((len(known.states),), 3.0, dtype=torch.float64)
    every = Preferences(torch.tensor(weights, dtype=torch.float64).expand(len(known.states), -1), exponent)
    log_reward = task.log_reward(known.states, every).log_reward
    logits, log_z = known.flows(log_reward)
    wanted, total = known.wanted(log_reward)
    assert log_z == pytest.approx(total, abs=1e-12)
    exact = OfStates(known, logits.clamp(min=-1e5), log_z)
    built = known.terminating(action_probabilities(known, lambda features: exact.logits[: len(features)]))
    assert total_variation(built, wanted) < 1e-12
    (drawn,) = task.draw([numbers(0, 64)], [torch.Generator()])
    walked = task.walked(exact, drawn, exploration=0.3)
    assert walked.walks is not None
    assert len(walked.walks.objects.unique(dim=0)) > 5
    loss = task.loss(exact, walked)
    assert float(loss.values.max()) < 1e-8
    shifted = OfStates(known, logits.clamp(min=-1e5), log_z + 2)
    assert task.loss(shifted, walked).values.tolist() == pytest.approx([4.0] * 64)


def test_objects_do_not_depend_on_their_micro_batch() -> None:
    config = run_config(exponent={"least": 1.0, "most": 8.0})
    task, network = TrajectoryBalanceTask(config), build_model(config, plan_layout(config, 1))
    whole, halves = ([numbers(0, 8)], [numbers(0, 4), numbers(4, 4)])
    found = []
    for batches in (whole, halves):
        drawn = task.draw(batches, [torch.Generator()] * len(batches))
        collected = task.collect(drawn, TrainedNetworks(network))
        walks, valued = [one.walks for one in collected], [one.valued for one in collected]
        objects = torch.cat([one.objects for one in walks if one is not None])
        log_reward = torch.cat([one.log_reward for one in valued if one is not None])
        losses = torch.cat([task.loss(network, one).values for one in collected])
        found.append((torch.cat([one.condition for one in collected]), objects, log_reward, losses))
    assert all(torch.allclose(one, other, rtol=1e-6) for one, other in zip(*found, strict=True))
    assert found[0][0].shape == (8, 3 * 50), "two preferences and the exponent"
    assert task.state() == {"reward_calls": 16, "network_calls": 16 * 13}


def learned(task: TrajectoryBalanceTask, updates: int) -> Network:
    network = build_model(task.config, plan_layout(task.config, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(updates):
        drawn = task.draw([numbers(32 * step, 32)], [torch.Generator()])
        (collected,) = task.collect(drawn, TrainedNetworks(network))
        optimizer.zero_grad()
        task.loss(network, collected).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def test_a_policy_learns_to_build_what_it_is_asked_for() -> None:
    """On 16 cells, the distribution for two opposite preferences, by enumeration."""
    task = TrajectoryBalanceTask(run_config(exponent=8.0))
    known, network = Enumerated.of(task.environment), learned(task, 150)
    for weights in lattice(2, 1):
        asked = task.wanted(torch.zeros(16, dtype=torch.int64), weights.expand(16, -1))
        wanted, _ = known.wanted(task.log_reward(known.states, asked.preferences).log_reward)
        with torch.no_grad():
            said = Policy(*network(task.environment.features(known.states)[:, None], asked.condition))
        built = known.terminating(action_probabilities(known, lambda _, said=said: said.forward[:, 0]))
        even = known.terminating(action_probabilities(known, lambda features: torch.zeros(len(features), 3)))
        assert total_variation(built, wanted) < 0.4 < 0.6 < total_variation(even, wanted)


def settings(folder: Path, *more: str) -> list[str]:
    file = folder / "run.yaml"
    file.write_text(
        "model: {kind: policy_mlp, hidden: 16, num_layers: 1}\n"
        "task: {environment: {kind: hypergrid, side: 4}, exponent: 4.0}\n"
        "optim: {steps: 4, global_batch: 16, rates: {log_partition: 10.0}}\n"
        "data: {held_out: 32}\nevaluate: {every: 4}\nobserve: {log_every: 1, tensorboard: false}\n"
        "checkpoint: {every: 2}\nsample: {num: 3, divisions: 2}\n"
    )
    return ["train", str(file), *more]


@pytest.mark.slow
def test_two_ranks_learn_as_one_and_a_stopped_run_goes_on(tmp_path: Path) -> None:
    assert main(settings(tmp_path, f"run.dir={tmp_path / 'alone'}", "sample.every=4")) == 0
    expected = timeless(tmp_path / "alone" / "metrics.jsonl")
    assert expected[-1][1]["reward_calls"] == 64
    for name, engine in (("zero_3", "{zero_stage: 3}"), ("fsdp", "{kind: fsdp}")):
        words = settings(tmp_path, f"run.dir={tmp_path / name}", f"engine={engine}", "optim.micro_batch=4")
        result = torchrun("-m", "trainer", *words)
        assert result.returncode == 0, result.stderr
        for (step, found), (_, values) in zip(timeless(tmp_path / name / "metrics.jsonl"), expected, strict=True):
            assert found == pytest.approx(values, rel=1e-5, abs=1e-6), (name, step)
    lines = (tmp_path / "alone" / "samples" / "step_00000004.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert (len(lines), first["preference"], first["exponent"]) == (9, {"branin": 1.0, "currin": 0.0}, 4.0)
    assert main(settings(tmp_path, f"run.dir={tmp_path / 'resumed'}", "optim.steps=2")) == 0
    out = tmp_path / "objects.jsonl"
    assert main(["sample", str(tmp_path / "alone"), "--preference", "1,0", "--num", "3", "--out", str(out)]) == 0
    assert out.read_text().splitlines() == lines[:3]
    assert out.with_suffix(".png").stat().st_size > 1000


@pytest.mark.slow
def test_a_trained_policy_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out, page = tmp_path / "run", tmp_path / "figures.json", tmp_path / "page.html"
    assert main(settings(tmp_path, f"run.dir={run}")) == 0
    for option, value in (("--evaluations", "1,2"), ("--likelihood", "3"), ("--controls", "[]")):
        line = refused(capsys, "evaluate", run, option, value, "--out", out)
        assert line == f"{option}: {run} builds objects and follows no flow; leave it out (--num and --seed are read)"
    assert "--num: 1 is below 2" in refused(capsys, "evaluate", run, "--num", "1", "--out", out)
    assert not out.exists()
    assert main(["evaluate", str(run), "--num", "20", "--out", str(out), "--page", str(page)]) == 0
    assert "20 objects of step_00000004 for each preference, exponent 4" in capsys.readouterr().out
    assert len(json.loads(out.read_text())["preferences"]) == 11
    assert "data:image/png;base64," in page.read_text(), "which cells are built"
