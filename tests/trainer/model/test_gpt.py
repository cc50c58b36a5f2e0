"""The language model on one process against its definition.

Shape suffixes: B sequences, N positions, W width of a head.
"""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from moe.seeds import fold_in, keyed_dropout, uniform
from tests.trainer.model.language_models import SIZES, dense, window
from trainer.config.model import GPTConfig
from trainer.model.attention import Rotary, attend_last, attend_scattered, attend_whole, rotated
from trainer.model.gpt import GPT
from trainer.model.network import NetworkSpec
from trainer.model.values import initialised

exactly = functools.partial(torch.testing.assert_close, rtol=1e-11, atol=1e-13)


def by_definition(model: Any, tokens_BN: Tensor) -> Tensor:
    """The logits, head by head and row by row; rotary as a product with matrices of rotation."""
    (heads, shared), width = (SIZES["num_heads"], SIZES["num_kv_heads"]), SIZES["hidden"] // SIZES["num_heads"]

    def turned(x_NW: Tensor) -> Tensor:
        frequencies = 10_000.0 ** (-2 * torch.arange(width // 2, dtype=torch.float64) / width)
        angles = torch.arange(len(x_NW), dtype=torch.float64)[:, None] * frequencies
        cosine, sine, first, second = angles.cos(), angles.sin(), x_NW[:, ::2], x_NW[:, 1::2]
        return torch.stack([cosine * first - sine * second, sine * first + cosine * second], dim=2).flatten(1)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight

    results = []
    for tokens_N in tokens_BN:
        x = model.embed.weight[tokens_N]
        for block in model.blocks:
            joint = norm(x, block.attention_norm.weight) @ block.attention.query_key_value.weight.T
            read = []
            for head in range(heads):
                group = heads + head // (heads // shared)
                query, key, value = (joint[:, i * width : (i + 1) * width] for i in (head, group, group + shared))
                scores = turned(query) @ turned(key).T / width**0.5
                rows = [scores[n, : n + 1].softmax(dim=0) @ value[: n + 1] for n in range(len(x))]
                read.append(torch.stack(rows))
            x = x + torch.cat(read, dim=1) @ block.attention.projection.weight.T
            first, _, second = block.feed_forward
            x = x + functional.gelu(norm(x, block.feed_forward_norm.weight) @ first.weight.T) @ second.weight.T
        results.append(norm(x, model.final_norm.weight) @ model.unembed.weight.T)
    return torch.stack(results)


def test_it_is_what_its_definition_says() -> None:
    model = dense()
    tokens_BN, targets_BN = window()
    logits = model(tokens_BN)
    expected = by_definition(model, tokens_BN)
    assert expected.std() > 0.2
    exactly(logits, expected)
    losses = model(tokens_BN, targets_BN)
    exactly(losses, -expected.log_softmax(dim=-1).gather(2, targets_BN[:, :, None])[:, :, 0])


def test_a_later_byte_does_not_change_an_earlier_prediction() -> None:
    model = dense()
    tokens_BN, _ = window()
    changed = tokens_BN.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 256
    before, after = model(tokens_BN), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert (before[:, 7:] != after[:, 7:]).any(dim=2).all()


def test_shared_key_value_heads_are_repeated_heads() -> None:
    shared, full = dense(), dense(num_kv_heads=None)
    width = SIZES["hidden"] // SIZES["num_heads"]
    state = shared.state_dict()
    for layer in range(SIZES["num_layers"]):
        name = f"blocks.{layer}.attention.query_key_value.weight"
        query, *pair = state[name].view(-1, width, SIZES["hidden"]).split([6, 2, 2])
        state[name] = torch.cat([query, *(part.repeat_interleave(3, dim=0) for part in pair)]).flatten(0, 1)
    full.load_state_dict(state)
    tokens_BN, _ = window()
    exactly(shared(tokens_BN), full(tokens_BN))


@pytest.mark.parametrize("shift", [1, 37])
def test_turned_products_depend_on_the_distance_alone(shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(5, 2, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    positions, turns = torch.tensor([0, 3, 4, 9, 11]), Rotary(64, 8)

    def products(by: int) -> Tensor:
        return torch.einsum("qhw,khw->hqk", rotated(query, positions + by, turns), rotated(key, positions + by, turns))

    exactly(products(0), products(shift))
    assert not torch.allclose(products(0), torch.einsum("qhw,khw->hqk", query, rotated(key, positions, turns)))


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


def test_gradients_are_those_of_finite_differences() -> None:
    model = dense(hidden=8, num_heads=2, num_kv_heads=1, num_layers=2)
    tokens_BN, targets_BN = window(batch=2, length=3)
    weight = model.get_parameter("blocks.0.attention.query_key_value.weight")
    (gradient,) = torch.autograd.grad(model(tokens_BN, targets_BN).mean(), [weight])
    for row, column in ((0, 3), (5, 1), (9, 2), (14, 7)):
        steps = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[row, column] += sign * 1e-5
                steps.append(float(model(tokens_BN, targets_BN).mean()))
                weight[row, column] -= sign * 1e-5
        assert float(gradient[row, column]) == pytest.approx((steps[0] - steps[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_initial_weights_come_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = dense(3).state_dict()
    torch.manual_seed(2)
    other = dense(3).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["embed.weight"], dense(4).state_dict()["embed.weight"])
    assert not [name for name in one if name.endswith("bias")]


def test_a_fresh_model_predicts_every_byte_alike() -> None:
    config = GPTConfig(hidden=64, num_layers=4)
    model = initialised(GPT(NetworkSpec(config=config, state_shape=())), 0)
    losses = model(*window(batch=8, length=64))
    assert float(losses.detach().mean()) == pytest.approx(np.log(256), abs=0.05)


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
