"""The network, its guidance, its moving average, its learning rate, and the images drawn from it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.each import each
from tests.ranks import run_ranks
from trainer.config.derived import expert_parameters
from trainer.config.model import DiTConfig
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.sections import OptimConfig
from trainer.data import Batch
from trainer.distributed.engine.ema import MovingAverage
from trainer.distributed.groups import divide_ranks
from trainer.flow import Condition
from trainer.flow.field import guided
from trainer.model.build import build_model, dense_parameters, parameter_shapes
from trainer.model.dit import DiT
from trainer.model.network import NetworkSpec
from trainer.model.parallel.state import StatePiece, named_parameters
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.flow import FlowParts
from trainer.task import FlowTask
from trainer.training.schedule import learning_rate

MOE = {"num_experts": 4, "top_k": 2, "expert_hidden": 24}


def configuration(moe: Any = None, **model: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "runs/test", "seed": 3},
            "model": {"hidden": 32, "num_layers": 2, "num_heads": 4, **model},
            "moe": moe,
            "optim": {"steps": 1, "global_batch": 2},
            "sample": {"sampler": {"kind": "euler", "steps": 4}},
        }
    )


def dense(**model: Any) -> DiT:
    config = configuration(**model)
    built = build_model(config, plan_layout(config, 1))
    assert isinstance(built, DiT)
    return built


def stirred(model: DiT, seed: int = 0) -> DiT:
    """The network away from its start, where every output is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def states(number: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(number, 1, 8, 8, generator=generator),
        torch.rand(number, generator=generator),
        torch.arange(number) % 11,
    )


# parameters


def counted(_rank: int, _world_size: int, moe: dict[str, Any] | None) -> dict[str, Any]:
    config = configuration(moe)
    if moe is not None:
        from megatron.core import parallel_state

        parallel_state.initialize_model_parallel(expert_model_parallel_size=1)
    named = named_parameters(build_model(config, plan_layout(config, 1)))
    dense = [entry for entry in named if entry.stack is None]
    found: dict[str, Any] = {
        "dense": [entry.parameter.numel() for entry in dense],
        "experts": Counter(),
        "shapes": {entry.name: tuple(entry.parameter.shape) for entry in dense},
    }
    for stack, parameter in ((entry.stack, entry.parameter) for entry in named if entry.stack is not None):
        for name, expert, row in zip(stack.names, stack.experts, parameter, strict=True):
            found["experts"][stack.layer, expert] += row.numel()
            found["shapes"][name] = tuple(row.shape)
    return found


@pytest.mark.parametrize("moe", [None, MOE], ids=["dense", "experts"])
def test_the_formulas_count_the_real_network(moe: dict[str, Any] | None) -> None:
    config = configuration(moe)
    real = counted(0, 1, None) if moe is None else run_ranks(counted, 1, moe)[0]
    assert dense_parameters(config) == real["dense"]
    assert parameter_shapes(config) == real["shapes"]
    if moe is None:
        assert expert_parameters(config) == 0
    else:
        assert len(real["experts"]) == 2 * MOE["num_experts"]
        assert set(real["experts"].values()) == {expert_parameters(config)}


# the network


@each("patch_size", [1, 2, 4])
@each("channels", [1, 3])
def test_patches_and_image_are_inverse(patch_size: int, channels: int) -> None:
    sizes = configuration(patch_size=patch_size).model
    assert isinstance(sizes, DiTConfig)
    model = DiT(NetworkSpec(config=sizes, state_shape=(channels, 4, 8), num_classes=10))
    images = torch.arange(2 * channels * 32, dtype=torch.float32).reshape(2, channels, 4, 8)
    patches = model.grid.patches(images)
    assert patches.shape == (2, 32 // patch_size**2, channels * patch_size**2)
    assert torch.equal(model.grid.images(patches), images)
    assert torch.equal(patches[0, 0], images[0, :, :patch_size, :patch_size].flatten())


def test_no_label_is_the_null_label() -> None:
    model = stirred(dense()).eval()
    x_t, t, _ = states()
    torch.testing.assert_close(model(x_t, t, Condition()), model(x_t, t, Condition(torch.full((3,), 10))))


def test_dropout_acts_in_training_only() -> None:
    model = stirred(dense(dropout=0.5))
    x_t, t, labels = states()
    assert not torch.equal(model(x_t, t, Condition(labels)), model(x_t, t, Condition(labels)))
    model.eval()
    assert torch.equal(model(x_t, t, Condition(labels)), model(x_t, t, Condition(labels)))


# labels and guidance


class Seen:
    """Stands for the network and keeps the labels it was called with."""

    def __call__(self, x_t: Tensor, _t: Tensor, condition: Condition) -> Tensor:
        self.labels = condition.label
        return torch.zeros_like(x_t)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_the_asked_share_of_labels_is_hidden(share: float) -> None:
    number, seen = 20_000, Seen()
    labels = torch.arange(number) % 10
    batch = Batch(x_1=torch.zeros(number, 1, 8, 8), labels=labels, ids=torch.arange(number))
    task = FlowTask(configuration(label_dropout=share))
    (drawn,) = task.draw([batch], [torch.Generator().manual_seed(0)])
    task.loss(seen, drawn)
    assert seen.labels is not None
    hidden = seen.labels == 10
    deviation = (share * (1 - share) / number) ** 0.5
    assert abs(float(hidden.float().mean()) - share) <= 4 * deviation
    assert torch.equal(seen.labels[~hidden], labels[~hidden])


def test_guidance_of_0_and_1_are_the_single_predictions() -> None:
    model = stirred(dense()).eval()
    x_t, t, labels = states()
    calls: list[int] = []

    def predict(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        calls.append(len(x))
        return model(x, t, condition)

    some, nothing = Condition(labels), Condition(torch.full((3,), 10))
    torch.testing.assert_close(guided(predict, some, nothing, 0.0)(x_t, t), model(x_t, t, nothing))
    torch.testing.assert_close(guided(predict, some, nothing, 1.0)(x_t, t), model(x_t, t, some))
    assert calls == [3, 3], "one prediction is enough"


def test_guidance_is_linear_in_its_scale() -> None:
    model = stirred(dense()).eval()
    x_t, t, labels = states()
    some, nothing = Condition(labels), Condition(torch.full((3,), 10))
    fields = {scale: guided(model, some, nothing, scale)(x_t, t) for scale in (0.0, 0.5, 1.0, 2.0, 3.0)}
    step = fields[1.0] - fields[0.0]
    assert step.abs().max() > 1e-3
    for scale, field in fields.items():
        torch.testing.assert_close(field, fields[0.0] + scale * step, rtol=1e-4, atol=1e-5)


# moving average and learning rate


def scripted_average(decay: float, steps: int) -> tuple[list[float], list[float]]:
    """The average after each step of a scripted weight, and the weights, the start first."""
    module = nn.Linear(1, 1, bias=False)
    learned = module.weight.data
    piece = StatePiece("weight", "weight", (1, 1), (0, 0), learned)
    written = []

    @contextmanager
    def evaluating() -> Iterator[None]:
        module.eval()
        yield
        module.train()

    def weights_written() -> None:
        written.append(float(learned))

    engine: Any = SimpleNamespace(state=lambda _kinds: [piece], evaluating=evaluating, weights_written=weights_written)
    weights = [float(w) for w in np.random.default_rng(0).normal(size=steps + 1)]
    learned.fill_(weights[0])
    average = MovingAverage(engine, decay)
    found = []
    for step, weight in enumerate(weights[1:], start=1):
        learned.fill_(weight)
        average.update(step)
        found.append(float(average.state()[0].tensor))
    before = float(learned)
    with average.in_place():
        assert float(learned) == found[-1]
        assert not module.training
    assert float(learned) == before
    assert module.training
    assert written == [found[-1], before]
    return found, weights


@each("decay", [0.0, 0.3, 0.9, 0.9999])
def test_the_average_is_the_closed_form(decay: float) -> None:
    steps = 40
    found, weights = scripted_average(decay, steps)
    decays = [min(decay, (1 + step) / (10 + step)) for step in range(1, steps + 1)]
    for last in range(1, steps + 1):
        # The weight of step s enters with 1 - d_s and is shrunk by every later decay; the start by all of them.
        kept = [float(np.prod(decays[s:last])) for s in range(last + 1)]
        shares = [kept[0], *((1 - decays[s - 1]) * kept[s] for s in range(1, last + 1))]
        assert sum(shares) == pytest.approx(1)
        expected = sum(share * weight for share, weight in zip(shares, weights[: last + 1], strict=True))
        assert found[last - 1] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_learning_rate_rises_and_falls() -> None:
    optim = OptimConfig(steps=100, global_batch=1, lr=0.5, warmup_steps=20, final_lr=0.1)
    rates = [learning_rate(optim, step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.5 / 20)
    assert rates[19] == max(rates) == 0.5
    assert rates[59] == pytest.approx(0.3), "half way down is half way between"
    assert rates[-1] == pytest.approx(0.1)
    np.testing.assert_allclose(np.diff(rates[:20]), 0.5 / 20)
    assert (np.diff(rates[19:]) < 0).all()


@each(("warmup", "steps"), [(0, 1), (0, 10), (10, 10), (20, 10), (9, 10)])
def test_the_learning_rate_at_the_limits(warmup: int, steps: int) -> None:
    optim = OptimConfig(steps=steps, global_batch=1, lr=1.0, warmup_steps=warmup)
    rates = [learning_rate(optim, step) for step in range(1, steps + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    if warmup >= steps:
        assert rates == pytest.approx([step / warmup for step in range(1, steps + 1)])
    else:
        assert rates[-1] == pytest.approx(0.0, abs=1e-12)


# images


def draw(_rank: int, _world_size: int) -> dict[tuple[int, float], Tensor]:
    divide_ranks(expert_parallel=1, tensor_parallel=1)
    config = configuration()
    built = build_model(config, plan_layout(config, 2))
    assert isinstance(built, DiT)
    model = stirred(built).eval()
    return {
        (number, guidance): TrainedFlow(config, FlowParts(config), model).draw(
            Condition(label=torch.arange(number) % 10), guidance=guidance, seed=5
        )
        for number in (1, 5, 20)
        for guidance in (1.0, 1.5)
    }


@pytest.fixture(scope="module")
def drawn() -> dict[int, list[dict[tuple[int, float], Tensor]]]:
    return {world_size: run_ranks(draw, world_size) for world_size in (1, 2)}


def test_every_rank_has_all_images(drawn: dict[int, Any]) -> None:
    first, second = drawn[2]
    for (number, guidance), images in first.items():
        assert images.shape == (number, 1, 8, 8)
        assert images.isfinite().all()
        assert torch.equal(images, second[number, guidance])


def test_an_image_does_not_depend_on_who_draws_it(drawn: dict[int, Any]) -> None:
    for case, images in drawn[1][0].items():
        torch.testing.assert_close(drawn[2][0][case], images, rtol=1e-4, atol=1e-5)


def test_an_image_does_not_depend_on_those_behind_it(drawn: dict[int, Any]) -> None:
    for guidance in (1.0, 1.5):
        images = drawn[1][0][20, guidance]
        for number in (1, 5):
            torch.testing.assert_close(drawn[1][0][number, guidance], images[:number], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(images[0], images[10], atol=0.1), "the same label, but another noise"
