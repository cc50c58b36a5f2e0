"""Flow matching for a loop of one's own, against torchcfm and against the formulas written out."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

from tests.draws import generator
from tests.forked import ROOT
from trainer.flow import UNCONDITIONAL, Condition
from trainer.flow.coupling import Coupling, GibbsWeighted, Pairs
from trainer.flow.matching import FlowMatching
from trainer.flow.objective import ObjectiveInputs, Regression
from trainer.flow.path import Affine, trigonometric
from trainer.flow.sampler import Euler
from trainer.flow.target import Data
from trainer.flow.time import Grid

B, D = 64, 3


def data() -> Tensor:
    """[B, D] points."""
    return torch.randn(B, D, generator=generator(1)) + 2


class Reversing(Coupling):
    """Pairs each source point with the data point at the mirrored place, and takes the conditions along."""

    def draw(
        self,
        x_1: Tensor,
        condition: Condition,
        *,
        x_0: Tensor | None = None,
        generator: torch.Generator,  # noqa: ARG002
    ) -> Pairs:
        """Without weights."""
        assert x_0 is not None
        back = torch.arange(len(x_1)).flip(0)
        return Pairs(x_0, x_1[back], condition.rows(back))


def test_the_defaults_are_what_torchcfm_draws() -> None:
    x_0, x_1 = torch.randn(B, D, generator=generator(2)), data()
    drawn = FlowMatching().draw(x_1, x_0=x_0, generator=generator())
    _, x_t, velocity, *_ = ConditionalFlowMatcher(sigma=0.0).sample_location_and_conditional_flow(x_0, x_1, t=drawn.t)
    torch.testing.assert_close(drawn.x_t, x_t)
    torch.testing.assert_close(drawn.target, velocity)
    assert torch.equal(drawn.weight, torch.ones(B))
    assert drawn.condition is UNCONDITIONAL


def test_weights_are_those_of_the_pairs_with_mean_1() -> None:
    x_1 = data()
    drawn = FlowMatching(coupling=GibbsWeighted(cost="sqeuclidean", epsilon=8.0)).draw(x_1, generator=generator())
    kernel = (-drawn.target.square().sum(1) / 8).exp()  # on a straight path the target is x_1 - x_0
    torch.testing.assert_close(drawn.weight, kernel / kernel.mean())
    assert drawn.weight.std() > 0.1


def test_conditions_follow_their_data() -> None:
    x_0, x_1 = torch.zeros(B, D), data()
    condition = Condition(label=torch.arange(B))
    drawn = FlowMatching(coupling=Reversing()).draw(x_1, condition, x_0=x_0, generator=generator())
    assert drawn.condition.label is not None
    torch.testing.assert_close(drawn.x_t, drawn.t[:, None] * x_1[drawn.condition.label])
    assert torch.equal(drawn.condition.label, torch.arange(B).flip(0))


def test_the_loss_is_the_weighted_mean_of_squared_errors() -> None:
    network = nn.Linear(D, D)
    flow = FlowMatching(coupling=GibbsWeighted(), time=Grid(steps=5))
    loss = flow.loss(lambda x, *_: network(x), data(), generator=generator())
    drawn = flow.draw(data(), generator=generator())
    error = (network(drawn.x_t) - drawn.target).square().mean(1)
    torch.testing.assert_close(loss, (drawn.weight * error).sum() / drawn.weight.sum())
    loss.backward()
    assert network.weight.grad is not None


def test_other_parts_take_their_place() -> None:
    path = Affine(trigonometric)
    target = Data().build(path)
    flow = FlowMatching(path=path, target=target, objective=Regression(space="velocity").build(ObjectiveInputs(target)))
    x_1 = data()
    drawn = flow.draw(x_1, generator=generator())
    assert torch.equal(drawn.target, x_1)
    loss = flow.loss(lambda x, *_: torch.zeros_like(x), x_1, generator=generator())
    angle = torch.pi / 2 * drawn.t[:, None]
    x_0 = (drawn.x_t - angle.sin() * x_1) / angle.cos()
    velocity = torch.pi / 2 * (angle.cos() * x_1 - angle.sin() * x_0)
    of_zero = torch.pi / 2 * -angle.sin() * drawn.x_t / angle.cos()
    torch.testing.assert_close(loss, (of_zero - velocity).square().mean(), rtol=1e-3, atol=1e-3)


def test_a_network_that_predicts_the_data_is_followed_to_them() -> None:
    flow, x_1 = FlowMatching(), data()
    exact = FlowMatching(target=Data().build(flow.path))
    field = exact.field(lambda *_: x_1)
    end = Euler().sample(field, torch.randn(B, D, generator=generator()), torch.linspace(0, 1, 5)).final
    torch.testing.assert_close(end, x_1)


def test_source_points_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x_0: shape \(64, 2\)"):
        FlowMatching().draw(data(), x_0=torch.zeros(B, 2), generator=generator())


def test_it_brings_no_framework_and_no_process_group() -> None:
    program = (
        "import sys, torch.distributed, trainer.flow.matching\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), torch.distributed.is_initialized())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    loaded = set(result.stdout.split())
    assert loaded & {"megatron", "deepspeed", "sklearn", "True"} == set()
    assert "False" in loaded
