"""Networks at their start predict no motion at all: what is measured of them is known."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import ot
import pytest
import torch
from torch import Tensor, nn

import trainer.data
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.evaluation.evaluation import Evaluation, evaluate
from trainer.evaluation.fidelity.gaussian import Gaussian, gaussian_distance
from trainer.evaluation.fidelity.precision_recall import precision_recall
from trainer.evaluation.judgement import distances, real_examples
from trainer.evaluation.measurement import FlowMeasurement
from trainer.evaluation.transport import MongeGaps, Moved
from trainer.flow import Condition
from trainer.flow.context import Identity
from trainer.model.blockwise import BlockwiseMLP
from trainer.model.build import build_model
from trainer.model.feature_extractor.extractor import read_extractor, write_extractor
from trainer.model.mlp import MLP
from trainer.observe.measurement import MeasurementSpec
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts

SCHEMA = json.loads(Path("configs/schemas/evaluation.schema.json").read_text())
TOY = {"data": {"kind": "toy", "held_out": 200}, "model": {"kind": "mlp", "hidden": 16, "num_layers": 1}}
DIGITS = {"data": {"kind": "digits"}, "model": {"hidden": 16, "num_layers": 1, "num_heads": 2}}


def measured(sections: dict[str, Any], **settings: Any) -> tuple[RunConfig, Evaluation]:
    document = {"run": {"dir": "unused"}, "optim": {"steps": 1, "global_batch": 1}, **sections}
    config = RunConfig.model_validate(document)
    model = build_model(config, plan_layout(config, 1)).eval()
    flow = TrainedFlow(config, FlowParts(config), model, "step_00000000")
    found = evaluate(flow, MeasurementSpec(num=300, **settings))
    jsonschema.validate(found.to_dict(), SCHEMA)
    return config, found


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are compared with 1,000 real examples in place of 10,000."""
    monkeypatch.setattr("trainer.evaluation.judgement.JUDGED", 1000)


def timeless(found: Evaluation) -> Evaluation:
    return replace(found, results=tuple(replace(one, seconds_per_sample=0.0) for one in found.results))


@pytest.mark.slow
def test_what_does_not_move_has_the_figures_of_its_start():
    config, found = measured(TOY, evaluations=(1, 2), likelihood=150, seed=5)
    assert [(one.sampler, one.evaluations) for one in found.results] == [("heun", 2), ("euler", 1), ("euler", 2)]
    noise = FlowParts(config).starts(Condition(), torch.arange(300), seed=5).numpy()
    data = real_examples(config, Identity())[0].numpy()
    for one in found.results:
        assert one.figures.items() >= distances(noise, data, seed=5).items()
        squared = ((noise[:, None].astype(np.float64) - data[None, :300]) ** 2).sum(-1)
        weights = np.full(300, 1 / 300)
        assert one.figures["wasserstein_2"] == pytest.approx(np.sqrt(np.asarray(ot.emd2(weights, weights, squared))))
    assert found.paths == {"straightness": 0.0, "path_energy": 0.0, "transport_cost": 0.0}
    dataset = trainer.data.build(config.data)
    held_out = dataset.get(dataset.indices("held_out")[:150]).x_1
    nats = 0.5 * float(held_out.double().square().mean()) + 0.5 * math.log(math.tau)
    assert found.bits_per_dimension == pytest.approx(nats / math.log(2), abs=1e-4)
    assert found.floor["wasserstein_2"] < found.results[0].figures["wasserstein_2"]


def test_what_does_not_move_is_optimal():
    _, found = measured(TOY, evaluations=(1,))
    still = MongeGaps(300, Moved(0.0, 0.0), Moved(0.0, 0.0))
    assert found.monge_gap == still
    assert still.figure == "0.0%"


def mirrored(_: MLP, x: Tensor, t: Tensor, *_condition: Condition) -> Tensor:
    """Velocities at t = 0 to the mirror image of a point, and no motion from half way on."""
    return torch.where(t[:, None] < 0.5, -2 * x, torch.zeros_like(x))


def test_the_gap_of_a_mirror_image_is_what_a_better_pairing_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MLP, "forward", mirrored)
    config, found = measured({**TOY, "sample": {"sampler": {"kind": "euler", "steps": 2}}}, evaluations=(1,), seed=3)
    x = FlowParts(config).starts(Condition(), torch.arange(300), seed=3).double().numpy()
    least = float(np.asarray(ot.emd2([], [], ot.dist(x, -x))))
    cost = 4 * (x**2).sum(1).mean()
    assert found.monge_gap is not None
    assert found.monge_gap.one_step is not None
    assert found.monge_gap.one_step.transport_cost == pytest.approx(cost)
    assert found.monge_gap.one_step.gap == pytest.approx(cost - least)
    # Two steps of half the length lead to the origin: any pairing with it costs the same.
    assert found.monge_gap.sampler.transport_cost == pytest.approx((x**2).sum(1).mean())
    assert found.monge_gap.sampler.gap == pytest.approx(0, abs=1e-9)


def test_classes_have_maps_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shift that differs by class is optimal within each, though not over all."""

    def shifted(_self: MLP, x: Tensor, _t: Tensor, condition: Condition) -> Tensor:
        assert condition.label is not None
        return torch.where(condition.label[:, None] % 2 == 0, 9.0, -9.0).expand_as(x)

    monkeypatch.setattr(MLP, "forward", shifted)
    sections = {**TOY, "data": {**TOY["data"], "classes": True}, "sample": {"sampler": {"kind": "euler", "steps": 1}}}
    _, found = measured(sections, evaluations=(1,))
    assert found.monge_gap is not None
    assert found.monge_gap.sampler.gap == pytest.approx(0, abs=1e-9)
    assert found.monge_gap.sampler.transport_cost == pytest.approx(162, rel=1e-6)


@pytest.mark.parametrize(
    "sections",
    [
        {**TOY, "flow": {"path": {"kind": "trigonometric"}}},
        {**TOY, "flow": {"target": {"kind": "noise"}}, "sample": {"sampler": {"kind": "first_order"}}},
        {
            **TOY,
            "optim": {"steps": 1, "global_batch": 3},
            "model": {"kind": "blockwise_mlp", "segments": 3, "hidden": 16},
            "sample": {"sampler": {"kind": "segmented", "segments": 3, "within": {"kind": "euler", "steps": 1}}},
        },
    ],
    ids=["path", "target", "segments"],
)
def test_flows_without_a_map_of_one_step_have_the_gap_of_their_sampler(sections: dict[str, Any]) -> None:
    _, found = measured(sections, evaluations=(3,))
    assert found.monge_gap is not None
    assert found.monge_gap.one_step is None
    assert "one step" not in found.monge_gap.explained


def test_examples_with_contexts_of_their_own_have_no_gap():
    sections = {**DIGITS, "flow": {"context": {"kind": "inpainting"}}}
    _, found = measured(sections, evaluations=(1,))
    assert found.monge_gap is None


def test_a_map_of_one_step_is_measured_in_its_only_step():
    only = {"kind": "euler", "times": [0, 1]}
    sections = {**TOY, "flow": {"objective": {"kind": "monge_map"}}, "sample": {"sampler": only}}
    sections["optim"] = {"steps": 1, "global_batch": 8}
    _, found = measured(sections, evaluations=(1, 2, 4))
    assert [(one.sampler, one.evaluations) for one in found.results] == [("euler", 1)]


@pytest.mark.slow
def test_scaled_data_are_measured_in_their_own_units():
    config, found = measured({**TOY, "flow": {"data_scale": 2.0}}, evaluations=(1,), likelihood=50)
    noise = FlowParts(config).starts(Condition(), torch.arange(300), seed=0).numpy()
    data = real_examples(config, Identity())[0].numpy()
    assert found.results[0].figures["frechet_distance"] == distances(noise / 2, data, seed=0)["frechet_distance"]
    dataset = trainer.data.build(config.data)
    held_out = dataset.get(dataset.indices("held_out")[:50]).x_1
    truth = torch.distributions.Normal(0.0, 0.5).log_prob(held_out.double()).mean() / -math.log(2)
    assert found.bits_per_dimension == pytest.approx(float(truth), abs=1e-4)


def test_noise_is_no_class():
    _, found = measured(DIGITS, evaluations=(1,))
    assert [one.sampler for one in found.results] == ["euler"]
    assert found.results[0].figures["class_accuracy"] == pytest.approx(0.1, abs=0.06)
    assert found.bits_per_dimension is None


def test_what_follows_no_velocity_is_measured_by_its_own_sampler_and_has_no_paths(monkeypatch: pytest.MonkeyPatch):
    """At its start a head predicts no velocity, so that a token stays the noise that it begins at."""
    monkeypatch.undo()  # few real examples are far from each other
    chain = {"data": TOY["data"], "model": {"kind": "causal_transition", "hidden": 16, "num_layers": 1}}
    sampled = {"kind": "points", "sampler": {"kind": "causal_transition", "head": {"kind": "euler", "steps": 2}}}
    config, found = measured({**chain, "sample": sampled}, evaluations=(1, 2, 8))
    assert [(one.sampler, one.evaluations, one.calls) for one in found.results] == [
        ("causal_transition", 4, {"network": 4, "head": 8})
    ]
    assert found.paths is found.monge_gap is found.bits_per_dimension is None
    shown = FlowMeasurement(found, config)
    (remark,) = shown.remarks()
    assert remark.startswith("samples follow no velocity")
    assert remark.partition("Euler")[0] in shown.page(Path("run"), None)
    assert found.results[0].figures["wasserstein_2"] > 3 * found.floor["wasserstein_2"]


@pytest.mark.slow
def test_equal_evaluations_differ_in_time_alone():
    sections = {**TOY, "sample": {"sampler": {"kind": "euler_maruyama"}}}
    one, other = (timeless(measured(sections, evaluations=(3,), seed=1)[1]) for _ in range(2))
    assert one == other
    assert {result.sampler for result in one.results} == {"euler_maruyama", "euler"}


def test_a_sampler_that_chooses_its_steps_is_measured_once():
    _, found = measured({**TOY, "sample": {"sampler": {"kind": "dopri5"}}}, evaluations=(2,))
    assert [one.sampler for one in found.results] == ["dopri5", "euler"]
    assert found.results[0].evaluations > 2


@pytest.mark.parametrize("within", ["euler", "heun"])
def test_no_step_crosses_the_edges_of_a_run_that_samples_segment_by_segment(
    within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int | None, float]] = []
    predict = BlockwiseMLP.forward

    def watched(self: BlockwiseMLP, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        asked.append((condition.segment, float(t[0])))
        return predict(self, x, t, condition)

    monkeypatch.setattr(BlockwiseMLP, "forward", watched)
    sections = {
        **TOY,
        "optim": {"steps": 1, "global_batch": 3},
        "model": {"kind": "blockwise_mlp", "segments": 3, "hidden": 16},
        "sample": {"sampler": {"kind": "segmented", "segments": 3, "within": {"kind": within, "steps": 1}}},
    }
    _, found = measured(sections, evaluations=(1, 3, 4, 6))
    own, compared = {"euler": ([3, 6], []), "heun": ([6], [3, 6])}[within]
    assert [(one.sampler, one.evaluations) for one in found.results] == [
        *(("segmented", number) for number in own),
        *(("euler", number) for number in compared),
    ]
    assert {segment for segment, _ in asked} == {0, 1, 2}
    assert all(segment is not None and segment - 1e-6 <= 3 * t <= segment + 1 + 1e-6 for segment, t in asked)


def test_real_examples_of_an_endless_set_are_as_many_as_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the number itself is meant
    config = RunConfig.model_validate({"run": {"dir": "unused"}, "optim": {"steps": 1, "global_batch": 1}, **TOY})
    real, labels = real_examples(config, Identity())
    assert real.shape == (10_000, 2)
    assert labels is None
    assert len(np.unique(real.numpy(), axis=0)) == 10_000


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_features_of_samples_are_compared_with_those_of_the_data(tmp_path: Path, published: bool) -> None:
    """FID against statistics where there are some, precision and recall against the data; the floor is of the data."""
    features, statistics = tmp_path / "features", tmp_path / "statistics.npz" if published else None
    write_extractor(nn.Sequential(nn.Linear(2, 5), nn.Tanh()), features, (2,))
    mean, covariance = np.full(5, 3.0), np.eye(5)
    if statistics is not None:
        np.savez(statistics, mu=mean, sigma=covariance)
    config, found = measured(TOY, evaluations=(2,), seed=5, features=features, statistics=statistics)
    data = real_examples(config, Identity())[0]
    noise = FlowParts(config).starts(Condition(), torch.arange(300), seed=5)  # an untrained network moves nothing
    real, drawn = (read_extractor(features).features(points).astype(np.float64) for points in (data, noise))
    against = Gaussian(mean, covariance) if published else Gaussian.of(real)
    assert found.floor["fid"] < found.results[0].figures["fid"]
    for one in found.results:
        assert one.figures["fid"] == pytest.approx(gaussian_distance(Gaussian.of(drawn), against), rel=1e-5)
        expected = precision_recall(torch.from_numpy(real), torch.from_numpy(drawn))
        assert (one.figures["precision"], one.figures["recall"]) == pytest.approx(tuple(expected), abs=1 / 300)
