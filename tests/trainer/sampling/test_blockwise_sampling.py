"""Features of a trunk, what they are taught and how samplers save them, against plain loops and counts."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.each import each
from tests.trainer.model.blockwise_networks import CLASSES, STRAIGHT, flow, network, points, single
from trainer.flow import Condition, objective, path, target
from trainer.flow.coupling import Pairs
from trainer.flow.field import SegmentField
from trainer.flow.path import PathSample
from trainer.flow.question import Approximation, Onward, WithFeatures, WithProjection
from trainer.flow.sampler import Euler, EulerMaruyama, Heun, Segmented, StochasticHeun, Within
from trainer.flow.time import segment_of, share_behind, start_of
from trainer.model.blockwise import Blockwise
from trainer.model.conditioning import steering

# Features and their approximation


def test_projection_and_features_stand_beside_the_same_prediction() -> None:
    trained, (x, t, condition) = network(teacher_features=6), points(5)
    prediction = trained(x, t, condition)
    first, features = trained(x, t, condition, WithFeatures())
    second, projection = trained(x, t, condition, WithProjection())
    assert torch.equal(first, prediction)
    assert torch.equal(second, prediction)
    assert features.shape == (5, 4, 16)
    assert trained.projection is not None
    assert torch.equal(projection, trained.projection(features))


def test_features_are_approximated_by_a_share_of_the_residual() -> None:
    trained, (x, t, condition) = network(residual_layers=1), points(5)
    start = t.mul(3).floor() / 3
    share = share_behind(t, segment_of(t, 3), 3)
    x_start = x + start[:, None, None, None]
    found, true = trained(x, t, condition, Approximation(lambda times: x + times[:, None, None, None]))
    _, wanted = trained(x, t, condition, WithFeatures())
    _, first = trained(x_start, start, condition, WithFeatures())
    torch.testing.assert_close(true, wanted, rtol=1e-5, atol=1e-6)
    _, onward = trained(x, t, condition, WithFeatures()), trained(x, t, condition, Onward(found, torch.zeros(5)))
    torch.testing.assert_close(onward, trained(x, t, condition, Onward(first, share)), rtol=1e-5, atol=1e-6)
    found.square().sum().backward()
    learning = {name.partition(".")[0] for name, value in trained.named_parameters() if value.grad is not None}
    assert learning == {"residual", "residual_output"}


def test_a_residual_of_zero_leaves_the_features_at_the_start() -> None:
    trained, (x, t, condition) = network(residual_layers=1), points(5)
    assert trained.residual_output is not None
    with torch.no_grad():
        for parameter in trained.residual_output.parameters():
            parameter.zero_()
    start = start_of(segment_of(t, 3), 3, t)
    found, _ = trained(x, t, condition, Approximation(lambda _: x + 1))
    _, first = trained(x + 1, start, condition, WithFeatures())
    torch.testing.assert_close(found, first, rtol=1e-5, atol=1e-6)


# Objectives


def drawn_points() -> PathSample:
    x, t, _ = points(7)
    return path.LinearConfig().build().sample(Pairs(x, x.flip(0) + 1), t, generator=torch.Generator())


@pytest.mark.parametrize("places", [(), (2, 2)], ids=["an example", "places"])
def test_an_aligned_loss_is_the_error_less_the_mean_cosine(places: tuple[int, ...]) -> None:
    trained, sample, (_, _, condition) = network(teacher_features=6), drawn_points(), points(7)
    matrix = torch.randn(16, 6 * (4 if places else 1), generator=torch.Generator().manual_seed(8))

    def teacher(images: Tensor) -> Tensor:
        return (images.flatten(1) @ matrix).view(len(images), 6, *places)

    config = objective.Aligned(teacher=Path("unused"), weight=0.3)
    aligned = config.build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT), teacher=teacher))
    found = aligned.loss(trained, sample, condition)
    prediction, projected = trained(sample.x_t, sample.t, condition, WithProjection())
    taught = teacher(sample.x_1)
    for row in range(7):
        error = (prediction[row] - sample.velocity[row]).square().mean()
        cosines = []
        for token in range(4):
            own = taught[row, :, token // 2, token % 2] if places else taught[row]
            cosines.append(own @ projected[row, token] / own.norm() / projected[row, token].norm())
        torch.testing.assert_close(found.per_example[row], error - 0.3 * sum(cosines) / 4, rtol=1e-5, atol=1e-6)
    found.mean().backward()
    assert trained.embed_trunk is not None
    assert trained.embed_trunk.weight.grad is not None


def test_a_residual_of_features_is_learned_from_states_of_the_same_pairs() -> None:
    trained, sample, (_, _, condition) = network(residual_layers=1), drawn_points(), points(7)
    found = (
        objective.FeatureResidual()
        .build(objective.ObjectiveInputs(target.Velocity().build(STRAIGHT), STRAIGHT))
        .loss(trained, sample, condition)
    )
    start = start_of(segment_of(sample.t, 3), 3, sample.t)
    x_start = (1 - start)[:, None, None, None] * sample.x_0 + start[:, None, None, None] * sample.x_1
    _, first = trained(x_start, start, condition, WithFeatures())
    _, wanted = trained(sample.x_t, sample.t, condition, WithFeatures())
    share = share_behind(sample.t, segment_of(sample.t, 3), 3)
    patches = trained.grid.patches(sample.x_t)
    assert trained.embed_trunk is not None
    assert trained.residual_output is not None
    change = trained.residual[0](trained.embed_trunk(patches) + trained.positions, steered(trained, sample, condition))
    approximated = first + share[:, None, None] * trained.residual_output(change)
    errors = (approximated - wanted).square().mean((1, 2))
    torch.testing.assert_close(found.per_example, errors, rtol=1e-5, atol=1e-6)
    relative = errors.mean() / wanted.square().mean()
    torch.testing.assert_close(found.terms["feature_relative_error"], relative, rtol=1e-5, atol=0)


def steered(made: Blockwise, sample: PathSample, condition: Condition) -> Tensor:
    return steering(made, sample.t, condition.label, torch.float32)


# Sampling


def drawn(made: Blockwise, within: Within, *, approximates: bool, guidance: float = 1.5) -> Tensor:
    task, chosen = flow(residual_layers=1), Segmented(segments=3, within=within)
    field = task.parts.field(made, Condition(torch.arange(6) % CLASSES), guidance)
    assert isinstance(field, SegmentField)
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    sampler, followed = chosen.build(task.parts.path), replace(field, approximates=approximates)
    with torch.no_grad():
        return sampler.sample(followed, x, chosen.grid(), keys=torch.arange(6)).final


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5])
def test_one_step_a_segment_needs_no_approximation(guidance: float) -> None:
    made = network(residual_layers=1)
    full, approximated = (
        drawn(made, Euler(steps=1), approximates=choice, guidance=guidance) for choice in (False, True)
    )
    assert torch.equal(full, approximated)
    full, approximated = (
        drawn(made, Euler(steps=3), approximates=choice, guidance=guidance) for choice in (False, True)
    )
    assert not torch.equal(full, approximated)


def test_a_sampler_keeps_to_the_blocks_of_its_segment() -> None:
    """Heun's second evaluation of a step that ends on an edge stays in the segment that ends there."""
    made = network()
    field = flow().parts.field(made, Condition(torch.arange(6) % CLASSES), 1.0)
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    sampler = Segmented(segments=3, within=Heun(steps=1)).build(flow().parts.path)
    assert isinstance(sampler, Segmented)
    with torch.no_grad():
        found = sampler.sample(field, x, torch.tensor([0.0, 1 / 3, 2 / 3, 1.0])).final
        wanted = x
        for segment in range(3):
            alone = single(made, segment)
            start, end = (torch.full((6,), edge / 3) for edge in (segment, segment + 1))
            label = Condition(torch.arange(6) % CLASSES)
            slope = alone(wanted, start, label)
            ahead = alone(wanted + slope / 3, end, label)
            wanted = wanted + (slope + ahead) / 6
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_walk_back_to_the_source_approximates_nothing() -> None:
    made = network(residual_layers=1)
    field = flow(residual_layers=1).parts.field(made, Condition(torch.arange(6) % CLASSES), 1.0)
    assert isinstance(field, SegmentField)
    x = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    sampler = Segmented(segments=3, within=Euler(steps=2)).build(flow().parts.path)
    with torch.no_grad():
        both = [
            sampler.sample(replace(field, approximates=choice), x, torch.linspace(1, 0, 7)).final
            for choice in (False, True)
        ]
    assert torch.equal(*both)


@each(
    "within", [Euler(steps=8), Heun(steps=4), EulerMaruyama(steps=8), StochasticHeun(steps=4)], ids=lambda one: one.kind
)
@each(
    ("sizes", "full", "approximated"),
    [((4, 1, 1), 40, 5 + 2 * 7), ((20, 5, 4), 25 * 8, 25 + 9 * 7)],
    ids=["digits", "paper"],
)
def test_block_calls_of_a_segment(sizes: tuple[int, int, int], full: int, approximated: int, within: Within) -> None:
    trunk, own, residual = sizes
    made = network(trunk_layers=trunk, segment_layers=own, residual_layers=residual, hidden=8)
    calls: Counter[str] = Counter()
    for block in made.blocks:
        block.register_forward_hook(lambda *_: calls.update(["block"]))
    for approximates, wanted in ((False, full), (True, approximated)):
        calls.clear()
        drawn(made, within, approximates=approximates)
        assert calls["block"] == 3 * wanted
