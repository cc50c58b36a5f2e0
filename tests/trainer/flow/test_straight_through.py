"""Guidance of flows over letters by a reward: the gradient at drawn letters, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from netsim.foundation.own_class import OwnClass
from trainer.flow import Condition, path, target
from trainer.flow.control import ControlInputs, StraightThroughConfig
from trainer.flow.field import NetworkField
from trainer.flow.letters import centred, one_hot_of
from trainer.flow.reward import RewardInputs
from trainer.flow.sampler import Euler

V, L, B = 4, 3, 6
OWN = "tests.trainer.flow.test_straight_through:"


class Count:
    """How often the first letter is in a sequence."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        return examples[:, 0].flatten(1).sum(1)


class Hard(Count):
    """The same without a gradient."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        return super().__call__(examples, condition).detach()


class OfPlaces(Count):
    """A number for each place in place of each sequence."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:  # noqa: ARG002
        return examples[:, 0].flatten(1)


class OneHot(Count):
    """The same, which looks at the values that it is given."""

    def __call__(self, examples: Tensor, condition: Condition, /) -> Tensor:
        assert bool(torch.isin(examples.detach(), torch.tensor([0.0, 1.0])).all())
        return super().__call__(examples, condition)


def control(reward: str = "Count", along: path.Config | None = None, **settings: Any) -> Any:
    built = (along or path.GumbelSoftmaxConfig()).build()
    rewards = RewardInputs((V, 1, L), 0, lambda: (torch.zeros(0), torch.zeros(0)), 0)
    inputs = ControlInputs(built, Condition(), lambda *_: None, keys=torch.arange(B), rewards=rewards)
    document = {"kind": "straight_through", "reward": {"class": OWN + reward}, **settings}
    return StraightThroughConfig.model_validate(document).build(inputs)


def field(along: path.Config | None = None) -> NetworkField:
    """Of a network with the same logits at all states."""
    logits = torch.tensor([0.0, 1.0, 0.5, -0.5]).view(1, V, 1, 1).expand(B, V, 1, L)
    return NetworkField(lambda *_: logits, target.Token().build((along or path.GumbelSoftmaxConfig()).build()))


def state() -> tuple[Tensor, Tensor]:
    x = centred(torch.rand(B, V, 1, L, generator=torch.Generator().manual_seed(0)))
    return x, torch.full((B,), 0.5)


def test_no_strength_is_the_field_itself():
    followed = field()
    assert control(strength=0.0).over(followed) is followed


@pytest.mark.parametrize("along", [path.GumbelSoftmaxConfig(), path.LinearConfig()], ids=lambda one: one.kind)
def test_the_letters_that_a_reward_asks_for_become_likelier(along):
    followed, (x, t) = field(along), state()
    (before,) = followed.estimate(x, t, "data")
    shares = []
    for strength in (1.0, 4.0):
        changed = control(along=along, strength=strength).over(followed)
        (after,) = changed.estimate(x, t, "data")
        torch.testing.assert_close(after.sum(1), torch.zeros(B, 1, L), atol=1e-5, rtol=0)
        shares.append(float(after[:, 0].mean()))
    assert float(before[:, 0].mean()) < shares[0] < shares[1]


def test_the_gradient_is_that_of_the_soft_letters_and_the_reward_sees_hard_ones():
    """Of a linear reward it is the softmax Jacobian, whose rows have the sum 0."""
    changed, (x, t) = control("OneHot", draws=2000).over(field()), state()
    (data,) = field().estimate(x, t, "data")
    logits = (data + 1 / V).log()
    gradient = changed.gradient(logits, t)
    torch.testing.assert_close(gradient.sum(1), torch.zeros(B, 1, L), atol=1e-5, rtol=0)
    drawn = -(-torch.rand(200_000, V, generator=torch.Generator().manual_seed(1)).log()).log()
    soft = (logits[0, :, 0, 0] + drawn).softmax(1)
    expected = (soft[:, :1] * (torch.eye(V)[:1] - soft)).mean(0)
    torch.testing.assert_close(gradient.mean((0, 2, 3)), expected, atol=3e-3, rtol=0)


def test_what_is_drawn_is_a_function_of_key_and_time():
    changed, (x, t) = control().over(field()), state()
    assert torch.equal(changed(x, t), changed(x, t))
    assert not torch.equal(changed(x, t), changed(x, t + 0.01))
    alone = replace(
        changed, keys=changed.keys[3:4], field=NetworkField(lambda x, t: field().predict(x, t)[:1], field().target)
    )
    torch.testing.assert_close(alone(x[3:4], t[3:4]), changed(x, t)[3:4])


def test_samples_under_it_have_a_larger_reward():
    built, sampler = path.GumbelSoftmaxConfig().build(), Euler(steps=20)
    begun = built.start(torch.randn(B, V, 1, L, generator=torch.Generator().manual_seed(2)))
    rewards = []
    for strength in (0.0, 20.0):
        found = sampler.build(built).sample(control(strength=strength).over(field()), begun, sampler.grid()).final
        rewards.append(float(Count()(one_hot_of(found), Condition()).mean()))
    assert rewards[1] > rewards[0] + 0.5


@pytest.mark.parametrize(
    ("reward", "message"),
    [("Hard", "has no gradient in the examples"), ("OfPlaces", r"returns float32 \[60, 3\] for 60 examples")],
)
def test_a_reward_without_gradient_or_of_another_shape_is_refused(reward, message):
    changed, (x, t) = control(reward).over(field()), state()
    with pytest.raises(ValueError, match=f"reward {OWN}{reward} {message}"):
        changed(x, t)


def test_it_needs_sequences_to_value():
    document = {"kind": "straight_through", "reward": {"class": OWN + "Count"}}
    with pytest.raises(ValueError, match="reward: it values sequences, and none are drawn here"):
        StraightThroughConfig.model_validate(document).build(
            ControlInputs(path.LinearConfig().build(), Condition(), lambda *_: None)
        )
    assert isinstance(StraightThroughConfig.model_validate(document).reward, OwnClass)
