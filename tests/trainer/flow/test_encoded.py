"""Paths that begin at what a network makes of captions: its encoder, its loss, and the field of samples."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

import trainer.data
from tests.draws import generator
from tests.each import each
from tests.trainer.data.test_captions import WIDTH, resolved, written
from trainer.config.model import EncodedDiTConfig, EncodedMLPConfig, NetworkConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.flow import Condition, path
from trainer.flow.coupling import Encoded, Pairs
from trainer.flow.objective import EncodedSource, ObjectiveInputs
from trainer.flow.path import PathSample
from trainer.flow.question import Encode, FromSource
from trainer.flow.sampler import Euler, Field
from trainer.flow.target import Velocity
from trainer.model.build import NETWORKS, build_model
from trainer.model.network import Network, NetworkSpec
from trainer.model.values import initialised
from trainer.sampling.flow import FlowParts
from trainer.task import FlowTask

SIZE, NULL = 12, (3, 4, 11)
SHAPES: dict[type[NetworkConfig], tuple[int, ...]] = {EncodedDiTConfig: (1, 4, 4), EncodedMLPConfig: (6,)}
networks = pytest.mark.parametrize("kind", SHAPES)
LINEAR = path.LinearConfig(sigma_min=0.1).build()


def network(kind: type[NetworkConfig], **encoder: Any) -> Network:
    """A network whose values are all drawn, its output too."""
    sizes = {"hidden": 16, "num_layers": 1, "encoder": {"hidden": 8, **encoder}}
    config = kind.model_validate(sizes | ({"num_heads": 2} if kind is EncodedDiTConfig else {}))
    spec = NetworkSpec(config=config, state_shape=SHAPES[kind], num_classes=1, caption_width=WIDTH)
    made = initialised(NETWORKS[kind](spec), 0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator(parameter.numel())), alpha=0.1)
    return made


def points(shape: tuple[int, ...]) -> tuple[PathSample, Condition]:
    """Points whose source is noise; some rows have no caption."""
    noise, x_1 = torch.randn(2, SIZE, *shape, generator=generator(1))
    label = torch.zeros(SIZE, dtype=torch.int64)
    label[list(NULL)] = 1
    condition = Condition(label, caption=torch.randn(SIZE, WIDTH, generator=generator(2)))
    t = torch.linspace(0, 1, SIZE)
    return LINEAR.sample(Pairs(noise, x_1, condition), t, generator=generator()), condition


def loss(**settings: Any) -> EncodedSource:
    return EncodedSource(**settings).build(ObjectiveInputs(Velocity().build(LINEAR), LINEAR))


@networks
def test_source_points_are_means_and_deviations_of_noise(kind: type[NetworkConfig]) -> None:
    sample, condition = points(SHAPES[kind])
    for given, encoder in ((None, {}), (0.5, {"deviation": 0.5}), (0.0, {"deviation": 0.0})):
        made = network(kind, **encoder)
        _, x_0, _, mean, *log_variance = made(sample.x_0, sample.t, condition, FromSource(sample.x_1, lambda x: x))
        deviation = given if given is not None else (0.5 * log_variance[0]).exp()
        torch.testing.assert_close(x_0, mean + deviation * sample.x_0)
        assert (given is None) == bool(log_variance)
        assert torch.equal(Encoded().encode(made, sample.x_0, condition), x_0)
        assert given != 0 or torch.equal(x_0, mean)


@networks
def test_captions_are_read_by_the_encoder_alone(kind: type[NetworkConfig]) -> None:
    sample, condition = points(SHAPES[kind])
    made, other = network(kind), Condition(condition.label, caption=torch.zeros(SIZE, WIDTH))
    assert torch.equal(made(sample.x_t, sample.t, condition), made(sample.x_t, sample.t, other))
    assert not torch.equal(made(sample.x_0, sample.t, condition, Encode()), made(sample.x_0, sample.t, other, Encode()))


@each("kind", SHAPES)
@each("penalty", ["square", "soft6"])
def test_the_loss_is_its_three_terms(kind: type[NetworkConfig], penalty: Any) -> None:
    """By torch's own divergence and cross-entropy, and by a second call of the network at the points of the path."""
    made, (sample, condition) = network(kind), points(SHAPES[kind])
    found = loss(divergence=0.01, contrastive=0.5, mean_penalty=penalty).loss(made, sample, condition)
    _, x_0, likenesses, mean, log_variance = made(sample.x_0, sample.t, condition, FromSource(sample.x_1, lambda x: x))
    target = sample.x_1.clone()
    for row in NULL:
        target[row] = sample.x_1[(row + 1) % SIZE]
    truth = LINEAR.sample(Pairs(x_0, target), sample.t, generator=generator())
    error = (made(truth.x_t, sample.t, condition) - truth.velocity).square().flatten(1).mean(1)
    deviation = (0.5 * log_variance).exp()
    divergence = kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).flatten(1).sum(1)
    if penalty == "soft6":
        divergence += 0.5 * ((0.3 * mean) ** 6 - mean.square()).flatten(1).sum(1)
    scale = made.get_parameter("likeness.log_scale").exp()
    projected = made.get_submodule("likeness.project")(sample.x_1.flatten(1))
    cosines = functional.cosine_similarity(x_0.flatten(1)[:, None], projected[None], dim=2)
    torch.testing.assert_close(likenesses, scale * cosines, rtol=1e-4, atol=1e-4)
    rows = torch.arange(SIZE)
    contrast = functional.cross_entropy(likenesses, rows) / 2 + functional.cross_entropy(likenesses.T, rows) / 2
    torch.testing.assert_close(found.terms["velocity_error"], error.mean())
    torch.testing.assert_close(found.terms["divergence"], divergence.mean())
    torch.testing.assert_close(found.terms["contrastive"], contrast)
    torch.testing.assert_close(found.mean(), error.mean() + 0.5 * contrast + 0.01 * divergence.mean())


@networks
def test_every_parameter_learns_and_the_error_alone_moves_the_encoder(kind: type[NetworkConfig]) -> None:
    made, (sample, condition) = network(kind), points(SHAPES[kind])
    loss().loss(made, sample, condition).mean().backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in made.parameters())
    made.zero_grad(set_to_none=True)
    loss(divergence=0, contrastive=0).loss(made, sample, condition).mean().backward()
    grad = made.get_parameter("encoder.output.weight").grad
    assert grad is not None
    assert bool(grad.any())


def test_the_divergence_of_a_given_deviation_is_that_of_the_means() -> None:
    made, (sample, condition) = network(EncodedMLPConfig, deviation=0.0), points((6,))
    _, _, _, mean = made(sample.x_0, sample.t, condition, FromSource(sample.x_1, lambda x: x))
    found = loss(divergence=1.0).loss(made, sample, condition)
    assert bool(found.values.isfinite().all())
    torch.testing.assert_close(found.terms["divergence"], 0.5 * mean.square().sum(1).mean())


def test_a_perfect_prediction_has_no_error_and_one_step_of_it_leads_to_the_data() -> None:
    sample, condition = points((6,))
    straight = path.LinearConfig().build()
    made = EncodedSource(contrastive=0, divergence=0).build(ObjectiveInputs(Velocity().build(straight), straight))
    condition = Condition(torch.zeros(SIZE, dtype=torch.int64), caption=condition.caption)

    def oracle(noise: Tensor, t: Tensor, _: Condition, question: FromSource) -> tuple[Tensor, ...]:
        assert torch.allclose(question.states(2 * noise), (1 - t[:, None]) * 2 * noise + t[:, None] * sample.x_1)
        return sample.x_1 - 2 * noise, 2 * noise, torch.zeros(SIZE, SIZE), 2 * noise

    assert float(made.loss(oracle, sample, condition).mean()) < 1e-12
    field = cast(Field, lambda x, _: sample.x_1 - x)
    follows = Euler(steps=1).build(straight)
    found = follows.sample(field, sample.x_0, torch.tensor([0.0, 1.0]), keys=torch.arange(SIZE))
    torch.testing.assert_close(found.final, sample.x_1)


def run(folder: Path, **sections: Any) -> RunConfig:
    if not folder.exists():
        written(folder)
    document = {
        "run": {"dir": "unused"},
        "data": {"kind": "digits", "held_out": 97},
        "model": {"kind": "encoded_dit", "hidden": 16, "num_layers": 1, "num_heads": 2, "label_dropout": 0.5},
        "flow": {"captions": resolved(folder), "coupling": {"kind": "encoded"}},
        "optim": {"steps": 2, "global_batch": 8},
        **sections,
    }
    return RunConfig.model_validate(document)


def test_rows_without_a_caption_keep_it_and_have_another_label(tmp_path: Path) -> None:
    config = run(tmp_path / "captions")
    assert config.flow is not None
    assert (config.num_labels, config.flow.objective.kind) == (1, "encoded_source")
    dataset = trainer.data.build(config.data, captions=config.flow.captions)
    batch = dataset.get(dataset.indices("train")[:400])
    (drawn,) = FlowTask(config).draw([batch], [generator()])
    assert drawn.condition.label is not None
    assert batch.captions is not None
    assert 150 < int(drawn.condition.label.sum()) < 250
    assert drawn.condition.label.max() == 1
    assert drawn.condition.caption is not None
    assert torch.equal(drawn.condition.caption, batch.captions)


def test_guidance_leads_away_from_the_same_state_with_the_other_label(tmp_path: Path) -> None:
    config = run(tmp_path / "captions")
    model = build_model(config, plan_layout(config, 1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator(parameter.numel()))
    x, t = torch.randn(4, 1, 8, 8, generator=generator(1)), torch.linspace(0, 0.9, 4)
    captions = torch.randn(4, WIDTH, generator=generator(2))
    given = Condition(torch.tensor([3, 7, 1, 0]), caption=captions)  # classes of the data, which are not read
    captioned, other = (model(x, t, Condition(torch.full((4,), label))) for label in (0, 1))
    assert not torch.allclose(captioned, other)
    parts = FlowParts(config)
    assert torch.equal(parts.field(model, given, 1.0)(x, t), captioned)
    torch.testing.assert_close(parts.field(model, given, 2.0)(x, t), other + 2 * (captioned - other))
