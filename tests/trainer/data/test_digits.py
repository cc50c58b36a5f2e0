import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits

from tests.each import each
from trainer import data
from trainer.data import DigitsConfig


@pytest.mark.parametrize("size", [8, 16, 32])
def test_images_are_the_published_ones_scaled_and_enlarged(size):
    pixels, labels = load_digits(return_X_y=True)
    batch = data.build(DigitsConfig(size=size)).get(torch.arange(1797))
    x, y = batch.x_1, batch.labels
    assert x.shape == (1797, 1, size, size)
    assert x.dtype == torch.float32
    assert y is not None
    np.testing.assert_array_equal(y.numpy(), labels)
    factor = size // 8
    expected = np.kron(pixels.reshape(-1, 8, 8), np.ones((1, factor, factor))) / 8 - 1
    np.testing.assert_allclose(x.numpy()[:, 0], expected, rtol=0, atol=1e-7)
    assert (float(x.min()), float(x.max())) == (-1, 1)


def test_every_image_is_in_exactly_one_split():
    config = DigitsConfig(held_out=360)
    digits = data.build(config)
    train, held_out = digits.indices("train"), digits.indices("held_out")
    assert (len(train), len(held_out)) == (1437, 360)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(1797))
    assert (digits.num_classes, digits.shape) == (config.num_classes, config.shape) == (10, (1, 8, 8))


def test_a_larger_held_out_part_contains_a_smaller_one():
    few, many = (set(data.build(DigitsConfig(held_out=n)).indices("held_out").tolist()) for n in (100, 300))
    assert few < many


def test_the_split_ignores_the_global_seed_and_holds_every_class():
    torch.manual_seed(1)
    first = data.build(DigitsConfig())
    torch.manual_seed(2)
    second = data.build(DigitsConfig())
    assert torch.equal(first.indices("held_out"), second.indices("held_out"))
    labels = first.get(first.indices("held_out")).labels
    assert labels is not None
    assert torch.bincount(labels, minlength=10).min() >= 20


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_digits_are_the_same_digits_turned_against_the_clock(degrees):
    upright, turned = (data.build(DigitsConfig(size=16, rotate=each)) for each in (0, degrees))
    one, other = (each.get(each.indices("train")[:20]) for each in (upright, turned))
    np.testing.assert_array_equal(other.x_1[:, 0], np.rot90(one.x_1[:, 0], degrees // 90, axes=(1, 2)))
    np.testing.assert_array_equal(other.labels, one.labels)
    np.testing.assert_array_equal(turned.indices("held_out"), upright.indices("held_out"))


def test_upright_digits_are_written_as_before_there_were_turned_ones():
    assert "rotate" not in DigitsConfig().model_dump()
    assert DigitsConfig.model_validate(DigitsConfig(rotate=90).model_dump()).rotate == 90


@each("values", [{"held_out": 0}, {"held_out": 1797}, {"size": 12}, {"size": "big"}, {"train": 3}, {"rotate": 45}])
def test_wrong_settings_are_refused(values):
    with pytest.raises(ValidationError):
        DigitsConfig(**values)
