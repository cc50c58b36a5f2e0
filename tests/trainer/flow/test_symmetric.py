"""A symmetric flow: image and label in one state, which go opposite directions in time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.draws import generator
from tests.each import each
from trainer.flow import Condition, coupling, path, target
from trainer.flow.coupling import Symmetric
from trainer.flow.label_field import Channels, OneHot, Scalar
from trainer.flow.objective import ObjectiveInputs, Regression
from trainer.flow.objective.regression import FieldWeights

FIELDS = [Scalar(), Scalar(repeats=3, spread=6.0), OneHot(), OneHot(noise=0.0)]
fields = each("field", FIELDS, ids=str)


def built(field: Any, num_classes: int = 10) -> Symmetric:
    made = coupling.build(Symmetric(label=field), num_classes)
    assert isinstance(made, Symmetric)
    return made


def batch(size: int = 40, rest: tuple[int, ...] = (4, 4)) -> tuple[Tensor, Condition]:
    return torch.randn(size, 2, *rest, generator=generator(9)), Condition(torch.arange(size) % 10)


@each("field", FIELDS, ids=str)
@each("rest", [(5, 3), ()], ids=["images", "vectors"])
def test_a_code_is_read_as_its_class(field: Any, rest: tuple[int, ...]) -> None:
    for num_classes in (2, 3, 10):
        labels = torch.arange(num_classes).repeat(20)
        uniform = torch.rand(len(labels), field.planes(num_classes), *rest, generator=generator())
        code = field.encode(Condition(labels), uniform, num_classes)
        assert code.shape == uniform.shape
        assert torch.equal(field.decode(code, num_classes), labels)


@pytest.mark.parametrize("classes", [None, OneHot(), Scalar()], ids=str)
def test_masks_lie_in_the_state_within_their_noise_and_leave_it_to_be_drawn(classes: Any) -> None:
    x_1, condition = batch()
    masks = (torch.rand(40, 2, 4, 4, generator=generator(5)) > 0.5).float() * 2 - 1
    condition = Condition(condition.label, masks)
    field = Channels(num=2, classes=classes)
    made = built(field)
    pairs = made.draw(x_1, condition, generator=generator(1))
    assert pairs.condition == Condition()
    start = made.start(made.state_shape((2, 4, 4), 10), condition, torch.arange(40))
    for fields in (pairs.x_0[:, 2:], start[:, 2:]):
        assert fields.shape[1] == field.planes(10)
        away = (fields[:, :2] - masks).abs()
        assert 0 < away.max() <= 5 / 127.5
        read = field.decode(fields, 10)
        if classes is None:
            assert read is None
        else:
            assert condition.label is not None
            assert read is not None
            assert torch.equal(read, condition.label)


def test_codes_of_scalars_fill_their_interval_without_a_gap() -> None:
    """Between the codes of neighbours lies (spread / 2) 2 / (K - 1), half of which is noise of each class."""
    labels = torch.arange(5)
    lowest, highest = (Scalar().encode(Condition(labels), torch.full((5, 1), u), 5)[:, 0] for u in (0.0, 1.0))
    torch.testing.assert_close(lowest, torch.tensor([-2.25, -1.25, -0.25, 0.75, 1.75]))
    torch.testing.assert_close(highest - lowest, torch.full((5,), 0.5))


@fields
def test_the_label_becomes_noise_while_the_image_comes_from_it(field: Any) -> None:
    x_1, condition = batch(4000, (2, 2))
    pairs = built(field).draw(x_1, condition, generator=generator(1))
    planes = field.planes(10)
    assert pairs.x_0.shape == pairs.x_1.shape == (4000, 2 + planes, 2, 2)
    assert torch.equal(pairs.x_1[:, :2], x_1)
    assert pairs.condition.label is None
    assert condition.label is not None
    assert torch.equal(field.decode(pairs.x_0[:, 2:], 10), condition.label)
    for noise in (pairs.x_0[:, :2], pairs.x_1[:, 2:]):
        assert abs(noise.mean().item()) < 0.02
        assert noise.std().item() == pytest.approx(1, abs=0.02)
    both = torch.corrcoef(torch.stack([pairs.x_0[:, 0].flatten(), pairs.x_1[:, 2].flatten()]))
    assert abs(both[0, 1].item()) < 0.03


@fields
def test_no_mean_over_pixels_says_the_class(field: Any) -> None:
    """Close to t = 1 the planes of a state are as noisy as a single value."""
    x_1, condition = batch(4000, (8, 8))
    pairs = built(field).draw(x_1, condition, generator=generator(1))
    noise = pairs.x_1[:, 2:].flatten(2)
    assert torch.equal(noise, noise[..., :1].expand_as(noise))
    assert noise.mean(2).std().item() == pytest.approx(1, abs=0.03)
    masks = Condition(condition.label, torch.zeros(4000, 1, 8, 8))
    of_masks = built(Channels(classes=field)).draw(x_1, masks, generator=generator(1)).x_1[:, 2:]
    assert of_masks[:, :1].flatten(1).mean(1).std().item() == pytest.approx(1 / 8, abs=0.01)
    assert torch.equal(of_masks[:, 1:, :1, :1].expand(-1, -1, 8, 8), of_masks[:, 1:])


@fields
def test_samples_begin_at_noise_and_the_code_of_their_class_by_key_alone(field: Any) -> None:
    made, keys, labels = built(field), torch.arange(30) * 7919, torch.arange(30) % 10
    shape = made.state_shape((2, 4, 4), 10)
    start = made.start(shape, Condition(labels), keys)
    assert start.shape == (30, *shape)
    assert torch.equal(field.decode(start[:, 2:], 10), labels)
    some = torch.tensor([17, 3])
    assert torch.equal(made.start(shape, Condition(labels[some]), keys[some]), start[some])
    other = made.start(shape, Condition((labels + 1) % 10), keys)
    assert torch.equal(other[:, :2], start[:, :2])
    assert torch.equal(field.decode(other[:, 2:], 10), (labels + 1) % 10)


def test_exchanging_image_and_label_is_turning_time_round() -> None:
    """The loss at t of (x, y) is that of (y, x) at 1 - t for a network with exchanged, negated outputs."""
    x_1, condition = batch()
    pairs = built(OneHot()).draw(x_1, condition, generator=generator(2))
    t = torch.rand(40, generator=generator(3))
    straight, network = path.LinearConfig().build(), torch.nn.Conv2d(12, 12, 3, padding=1)
    swap = [*range(2, 12), *range(2)]
    back = [swap.index(channel) for channel in range(12)]

    def loss(pairs: coupling.Pairs, t: Tensor, model: Any, channels: dict[str, int]) -> Tensor:
        sample = straight.sample(pairs, t, generator=generator())
        inputs = ObjectiveInputs(target=target.Velocity().build(straight), path=straight, fields=channels)
        weights = FieldWeights(image=0.7, label=0.3)
        return Regression(field_weights=weights).build(inputs).loss(model, sample, Condition()).values

    forward = loss(pairs, t, lambda x, *_: network(x), {"image": 2, "label": 10})
    turned = coupling.Pairs(pairs.x_1[:, swap], pairs.x_0[:, swap])
    backward = loss(turned, 1 - t, lambda x, *_: -network(x[:, back])[:, swap], {"label": 10, "image": 2})
    torch.testing.assert_close(forward, backward, rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_weighted_sum_of_the_mean_errors_of_both_fields() -> None:
    x_1, condition = batch()
    pairs = built(OneHot()).draw(x_1, condition, generator=generator(2))
    straight = path.LinearConfig().build()
    sample = straight.sample(pairs, torch.full((40,), 0.3), generator=generator())
    inputs = ObjectiveInputs(target=target.Velocity().build(straight), path=straight, fields={"image": 2, "label": 10})
    made = Regression(field_weights=FieldWeights(image=0.7, label=0.2)).build(inputs)
    found = made.loss(lambda x, *_: torch.zeros_like(x), sample, Condition())
    velocity = pairs.x_1 - pairs.x_0
    image, label = (part.square().flatten(1).mean(1) for part in (velocity[:, :2], velocity[:, 2:]))
    torch.testing.assert_close(found.values, 0.7 * image + 0.2 * label)
    torch.testing.assert_close(found.terms["image_error"], image.mean())
    torch.testing.assert_close(found.terms["label_error"], label.mean())


def test_an_exact_velocity_reads_the_class_in_one_evaluation() -> None:
    """At t = 1 the state is [image, noise], and noise minus velocity is the code."""
    x_1, condition = batch()
    pairs = built(Scalar()).draw(x_1, condition, generator=generator(4))
    velocity = pairs.x_1 - pairs.x_0
    assert condition.label is not None
    assert torch.equal(Scalar().decode(pairs.x_1[:, 2:] - velocity[:, 2:], 10), condition.label)
