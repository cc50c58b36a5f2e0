"""Source points between two ends of a reaction, and the term that keeps paths together."""

import pytest
import torch
from torch import Tensor

from trainer.flow import Condition, objective, target
from trainer.flow.coupling import Ends, Independent, Pairs
from trainer.flow.objective.regression import disagreement
from trainer.flow.path import LinearConfig


def context(num: int = 6, atoms: int = 5) -> Tensor:
    """Of two species; the first two atoms are free, of odd reactions the third too."""
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(num, 6, 1, atoms, generator=generator)
    free = (torch.arange(atoms) < 2 + torch.arange(num)[:, None] % 2).float()[:, None, None]
    ends[:, 3:] = torch.where(free > 0, ends[:, 3:], ends[:, :3])
    kinds = torch.nn.functional.one_hot(torch.arange(atoms) % 2).float().T[None, :, None].expand(num, -1, -1, -1)
    return torch.cat([ends, kinds, free], dim=1)


@pytest.mark.parametrize("begin", ["noise", "midpoint"])
def test_free_atoms_begin_at_noise_and_others_where_they_stay(begin: str) -> None:
    coupling = Ends.model_validate({"begin": begin, "deviation": 0.3})
    given = context(4000)
    pairs = coupling.draw(given[:, :3], Condition(context=given), generator=torch.Generator().manual_seed(1))
    free = given[:, -1:] > 0
    assert torch.equal(pairs.x_0[~free.expand_as(pairs.x_0)], given[:, :3][~free.expand_as(pairs.x_0)])
    middle = (given[:, :3] + given[:, 3:6]) / 2 if begin == "midpoint" else torch.zeros_like(pairs.x_0)
    noise = (pairs.x_0 - middle)[free.expand_as(pairs.x_0)]
    assert noise.mean().abs() < 0.01
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    assert pairs.log_weight is not None
    torch.testing.assert_close(pairs.log_weight.exp() * free.float().mean((1, 2, 3)), torch.ones(4000))


def test_samples_begin_at_a_function_of_key_and_ends() -> None:
    coupling, given = Ends(), context()
    keys = torch.arange(6) * 7 + 3
    begun = coupling.start((3, 1, 5), Condition(context=given), keys)
    some = coupling.start((3, 1, 5), Condition(context=given[[4, 1]]), keys[[4, 1]])
    assert torch.equal(begun[[4, 1]], some)
    assert torch.equal(begun[..., 3:], given[:, :3, :, 3:])
    with pytest.raises(ValueError, match="x_0: a coupling of kind ends draws its source points itself"):
        coupling.draw(begun, Condition(context=given), x_0=begun, generator=torch.Generator())


def by_pairs(velocities: Tensor) -> Tensor:
    number = len(velocities)
    cosines = [
        torch.nn.functional.cosine_similarity(velocities[first], velocities[second], dim=1)
        for first in range(number)
        for second in range(first)
    ]
    return 1 - torch.stack(cosines).mean(0)[:, None]


def test_disagreement_is_the_mean_over_pairs_and_nothing_at_rest() -> None:
    velocities = torch.randn(5, 4, 3, 1, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(disagreement(velocities), by_pairs(velocities), atol=1e-5, rtol=1e-5)
    velocities[..., 2:] = 0
    assert not disagreement(velocities)[..., 2:].any()
    assert disagreement(velocities[:1].expand(3, -1, -1, -1, -1)).abs().max() < 1e-6


@pytest.mark.parametrize("predicted", [target.Velocity(), target.Data()])
def test_the_spread_term_calls_once_at_other_starts_of_the_same_time(predicted: target.Config) -> None:
    path, coupling, given = LinearConfig().build(), Ends(), context()
    learned = objective.Regression(spread=objective.Spread(draws=3, weight=2.0))
    inputs = objective.ObjectiveInputs(target=predicted.build(path), path=path, start=coupling.start)
    draws = [getattr(one.build(inputs), "draws", False) for one in (learned, objective.Regression())]
    assert draws == [True, False], "keys are drawn for those that need them"
    condition, x_1 = Condition(context=given), given[:, 3:6]
    pairs = coupling.draw(x_1, condition, generator=torch.Generator().manual_seed(3))
    t = torch.linspace(0.1, 0.9, 6)
    sample = path.sample(Pairs(pairs.x_0, x_1), t, generator=torch.Generator())._replace(keys=torch.arange(6) + 11)
    called = []

    def model(x: Tensor, times: Tensor, seen: Condition) -> Tensor:
        assert seen.context is not None
        called.append((x, times))
        return torch.sin(3 * x) * seen.context[:, -1:] + (seen.context[:, :3] if predicted.kind == "data" else 0)

    terms = learned.build(inputs).loss(model, sample, condition)
    ((states, times),) = called
    assert torch.equal(times, t.repeat_interleave(3))
    states = states.unflatten(0, (6, 3))
    assert torch.equal(states[:, 0], sample.x_t)
    noises = (states - t.view(-1, 1, 1, 1, 1) * x_1[:, None]) / (1 - t).view(-1, 1, 1, 1, 1)
    middle = (given[:, :3] + given[:, 3:6])[:, None] / 2
    free = given[:, None, -1:].expand_as(noises) > 0
    assert ((noises - middle)[~free].abs() < 1e-5).all()
    assert (noises - middle)[free].std() == pytest.approx(0.5, rel=0.3)
    plain = objective.Regression().build(inputs).loss(model, sample, condition)
    assert set(terms.terms) == {"spread"}
    extra = (terms.values - plain.values)[:, :1]
    torch.testing.assert_close(extra.mean(), 2 * terms.terms["spread"], atol=1e-5, rtol=1e-4)


def test_normal_sources_have_a_spread_too() -> None:
    path = LinearConfig().build()
    inputs = objective.ObjectiveInputs(target=target.Velocity().build(path), path=path, start=Independent().start)
    x_1 = torch.randn(4, 2, generator=torch.Generator().manual_seed(4))
    sample = path.sample(Pairs(torch.zeros(4, 2), x_1), torch.full((4,), 0.5), generator=torch.Generator())
    learned = objective.Regression(spread=objective.Spread()).build(inputs)
    found = learned.loss(lambda x, *_: x, sample._replace(keys=torch.arange(4)), Condition())
    assert 0 < found.terms["spread"] < 2
