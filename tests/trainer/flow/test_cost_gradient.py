"""The control along the gradient of a cost, against the formula written out, and where it must do nothing."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.each import each
from trainer.flow import UNCONDITIONAL, Condition, path, sampler
from trainer.flow.control.protocol import ControlInputs, CostGradient, CostGradientConfig, limited
from trainer.flow.cost import RunningCost
from trainer.flow.sampler import Field
from trainer.flow.target import Quantity
from trainer.flow.target.conversion import convert

LINEAR = path.LinearConfig().build()


class Bowl(RunningCost):
    """|x - place|^4 / 4 along every value, once for each value of the label."""

    def __init__(self, place: float = 1.0, fault: str = "") -> None:
        self.place, self.fault = place, fault

    def __call__(self, x: Tensor, _t: Tensor, condition: Condition, /) -> Tensor:
        assert torch.is_grad_enabled()
        away = (x - self.place).flatten(1).square()
        if self.fault == "constant":
            return away.detach().sum(1)
        if self.fault == "shape":
            return away
        return away.square().sum(1) / 4 * (1 if condition.label is None else condition.label)


@dataclass(frozen=True)
class Falling(Field):
    """v = -x, counting its calls."""

    calls: list[Tensor]

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        assert not x.requires_grad
        self.calls.append(t)
        return -x

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        return tuple(self(x, t) for _ in quantities)


def configured(**settings: Any) -> CostGradientConfig:
    written = {"cost": {"class": f"{__name__}:Bowl"}, "limit": None, **settings}
    return CostGradientConfig.model_validate(written)


def over(field: Field, config: CostGradientConfig, condition: Condition = UNCONDITIONAL) -> Field:
    return CostGradient(config, ControlInputs(LINEAR, condition, network=lambda *_: None)).over(field)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("weight", ["time", "memoryless", "constant"])
@torch.no_grad()
def test_it_subtracts_the_weighted_gradient(weight: str) -> None:
    x, t = drawn(5, 2, 3), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    changed = over(Falling([]), configured(weight=weight, strength=3.0, floor=0.1))
    weights = {"time": 1 - t, "memoryless": 2 * (1.1 - t) / (t + 0.1) * (1 - t), "constant": torch.ones(5)}[weight]
    expected = -x - 3.0 * weights.view(-1, 1, 1) * (x - 1) ** 3
    torch.testing.assert_close(changed(x, t), expected)


def test_strength_0_is_the_field_itself() -> None:
    field = Falling([])
    assert over(field, configured(strength=0)) is field


@torch.no_grad()
def test_the_condition_reaches_the_cost_and_the_field_is_asked_once() -> None:
    field, x, t = Falling([]), drawn(3, 2), torch.zeros(3)
    label = torch.tensor([0, 1, 2])
    moved = over(field, configured(strength=1.0), Condition(label))(x, t)
    torch.testing.assert_close(moved, -x - label[:, None] * (x - 1) ** 3)
    assert len(field.calls) == 1


@pytest.mark.parametrize("limit", [0.5, 2.0])
@torch.no_grad()
def test_the_control_is_no_longer_than_the_limit_allows(limit: float) -> None:
    x, t = 3 * drawn(64, 4), torch.rand(64, generator=torch.Generator().manual_seed(1))
    free, short = (over(Falling([]), configured(limit=most))(x, t) + x for most in (None, limit))
    most = limit * x.norm(dim=1)
    within = free.norm(dim=1) <= most
    assert 0 < int(within.sum()) < 64
    torch.testing.assert_close(short[within], free[within])
    torch.testing.assert_close(short.norm(dim=1)[~within], most[~within])
    torch.testing.assert_close(torch.cosine_similarity(short, free), torch.ones(64))


def test_a_control_of_0_stays_0_at_any_limit() -> None:
    assert torch.equal(limited(torch.zeros(2, 3), torch.zeros(2, 3), 1.0), torch.zeros(2, 3))


@each(
    "config",
    [sampler.Euler(steps=50), sampler.Heun(steps=50), sampler.EulerMaruyama(steps=50), sampler.FirstOrder(steps=50)],
    ids=lambda config: config.kind,
)
def test_the_cost_falls_under_every_sampler(config: sampler.AnyConfig) -> None:
    x, t, keys = drawn(200, 2), torch.ones(200), torch.arange(200)
    with torch.no_grad():
        free, kept = (
            config.build(LINEAR).sample(over(Still(), configured(strength=strength)), x, config.grid(), keys=keys).final
            for strength in (0, 1.0)
        )
    cost = Bowl()
    assert float(cost(kept, t, UNCONDITIONAL).mean()) < 0.7 * float(cost(free, t, UNCONDITIONAL).mean())


@dataclass(frozen=True)
class Still(Field):
    """The exact velocity from N(0, 1) to N(0, 1): x (2 t - 1) / (t^2 + (1 - t)^2)."""

    def __call__(self, x: Tensor, t: Tensor, /) -> Tensor:
        t = t[:, None]
        return x * (2 * t - 1) / (t**2 + (1 - t) ** 2)

    def estimate(self, x: Tensor, t: Tensor, *quantities: Quantity) -> tuple[Tensor, ...]:
        velocity = self(x, t)
        return tuple(convert(velocity, x, t, LINEAR, source="velocity", to=one) for one in quantities)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"cost: Bowl returns the shape \(3, 2\) for 3 examples; return one value for each"),
        ("constant", "cost: Bowl does not depend on the state by operations that torch differentiates"),
    ],
)
@torch.no_grad()
def test_a_faulty_cost_is_named(fault: str, message: str) -> None:
    changed = over(Falling([]), configured(cost={"class": f"{__name__}:Bowl", "fault": fault}))
    with pytest.raises(ValueError, match=message):
        changed(drawn(3, 2), torch.zeros(3))


def test_the_segment_reaches_a_cost_that_asks_the_network() -> None:
    changed = over(Falling([]), configured())
    assert vars(changed.within(2))["condition"].segment == 2


@each(
    "settings",
    [
        {"cost": None},
        {"strength": -1},
        {"strength": float("nan")},
        {"limit": 0},
        {"floor": 0},
        {"weight": "linear"},
        {"cost": {"kind": "unknown"}},
        {"cost": {"class": "nowhere:Mine"}},
        {"stength": 1},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        configured(**settings)
