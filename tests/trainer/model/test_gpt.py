"""Parts of the language model on one process; test_plain_networks has its logits."""

import functools
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from moe.seeds import fold_in, keyed_dropout, uniform
from tests.trainer.model.language_models import dense, window
from trainer.config.model import GPTConfig
from trainer.model.attention import Rotary, attend_last, attend_scattered, attend_whole, rotated

exactly = functools.partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)


def test_losses_are_those_of_the_logits() -> None:
    model = dense()
    tokens, targets = window()
    expected = -model(tokens).log_softmax(dim=-1).gather(2, targets[:, :, None])[:, :, 0]
    assert expected.std() > 0.2
    exactly(model(tokens, targets), expected)


def test_turns_stay_exact_when_the_weights_are_cast() -> None:
    model = dense(context=4096).bfloat16()
    assert not any(buffer.is_floating_point() for buffer in model.buffers())
    assert model(window()[0]).dtype == torch.float32
    heads = torch.ones(1, 1, 8, dtype=torch.bfloat16)
    angle = torch.tensor(4095.0, dtype=torch.float64)
    turned = rotated(heads, torch.tensor([4095]), Rotary(4096, heads.shape[2]))[0, 0, 0]
    assert abs(float(turned) - float(angle.cos() - angle.sin())) < 2**-8


def scattered_inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(12, *shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((4, 4), (2, 2, 4))
    ]


def test_scattered_rows_attend_as_whole_sequences_do() -> None:
    query, key_value = scattered_inputs()
    whole = attend_whole(query, key_value, 6)
    numbers = torch.tensor([0, 1, 4, 7, 8, 9, 11])
    some = attend_scattered(query[numbers], key_value.view(2, 6, 2, 2, 4), numbers // 6, numbers % 6)
    exactly(some, whole[numbers])
    weights = torch.randn(some.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = torch.autograd.grad((whole[numbers] * weights).sum(), [query, key_value])
    for found, reference in zip(torch.autograd.grad((some * weights).sum(), [query, key_value]), expected, strict=True):
        exactly(found, reference)
    last = attend_last(query[[5, 11]], key_value.view(2, 6, 2, 2, 4), torch.ones(2, 6, dtype=torch.bool))
    exactly(last, whole[[5, 11]])


def test_no_rows_attend_to_nothing_and_keep_the_graph() -> None:
    query, key_value = scattered_inputs()
    empty = torch.arange(0)
    attended = attend_scattered(query[:0], key_value.view(2, 6, 2, 2, 4), empty, empty)
    assert attended.shape == (0, 4, 4)
    gradient = torch.autograd.grad(attended.sum(), [key_value])[0]
    assert torch.equal(gradient, torch.zeros_like(key_value))


def test_too_long_a_sequence_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="tokens: 17 tokens exceed the model's context 16; give at most that many"):
        dense()(window(length=17)[0])


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"hidden": 20, "num_heads": 4}, "hidden: 20 is not a multiple of 2 x num_heads 4; choose 16"),
        ({"num_kv_heads": 3, "num_heads": 4}, "num_kv_heads: 3 does not divide num_heads 4; choose a divisor"),
    ],
)
def test_heads_that_do_not_divide_are_refused_with_a_remedy(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line):
        GPTConfig(**{"hidden": 64, **changes})


# draws by key


def test_keyed_draws_are_uniform_and_unrelated() -> None:
    keys = fold_in(torch.tensor(5), torch.arange(40_000))
    drawn = uniform(keys)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    counts = torch.histc(drawn, bins=100, min=0, max=1)
    assert float((counts - 400).square().sum() / 400) < 160, "chi-square of 99 degrees, 0.9999 quantile"
    others = uniform(fold_in(keys, 0)), uniform(fold_in(torch.tensor(6), torch.arange(40_000))), drawn.roll(1)
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([drawn, other]))[0, 1])) < 0.025


def test_dropout_is_a_function_of_the_key() -> None:
    keys = fold_in(torch.tensor(1), torch.arange(2000))
    values = torch.ones(2000, 50)
    dropped = keyed_dropout(values, keys, 0.3)
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1 - 0.3))}
    assert abs(float((dropped == 0).float().mean()) - 0.3) < 4 * (0.3 * 0.7 / 100_000) ** 0.5
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(keyed_dropout(values[order], keys[order], 0.3), dropped[order])
    assert torch.equal(keyed_dropout(values, keys, 0.0), values)


def test_dropout_acts_in_training_only_and_comes_from_torchs_generator() -> None:
    model, batch = dense(dropout=0.5), window()
    torch.manual_seed(1)
    one, two = model(*batch), model(*batch)
    torch.manual_seed(1)
    assert torch.equal(model(*batch), one)
    assert not torch.equal(one, two)
    model.eval()
    assert torch.equal(model(*batch), model(*batch))


def test_turns_of_a_mode_without_numbers_do_not_outlive_it() -> None:
    """Memory is told by tensors that have shapes alone."""
    rotary, heads, positions = Rotary(13, 4, 77.0), torch.randn(3, 2, 4), torch.arange(3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        rotated(heads, positions, rotary)
    turned = rotated(heads, positions, rotary)
    assert type(turned) is torch.Tensor
    assert torch.equal(turned[0], heads[0]), "position 0 is not turned"


def test_turns_that_many_others_have_driven_out_are_computed_again() -> None:
    heads, positions = torch.randn(3, 2, 4), torch.arange(3)
    first = rotated(heads, positions, Rotary(13, 4, 3.0))
    for base in range(20):
        rotated(heads, positions, Rotary(13, 4, 10.0 + base))
    assert torch.equal(rotated(heads, positions, Rotary(13, 4, 3.0)), first)
