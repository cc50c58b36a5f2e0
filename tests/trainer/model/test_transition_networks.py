"""Networks with a head: what they answer, what they cost, and what goes with them."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.flow import Condition
from trainer.flow.question import FromTokens, HeadVelocities, Tokens
from trainer.model.build import build_model
from trainer.model.flops import training_flops

SIZES: dict[str, dict[str, Any]] = {
    "dit": {"hidden": 16, "num_layers": 2, "num_heads": 2},
    "mlp": {"hidden": 16, "num_layers": 2},
}
SHAPES = {"dit": (1, 8, 8), "mlp": (2,)}
TOKENS = {"dit": 16, "mlp": 1}
trunks = pytest.mark.parametrize("trunk", SIZES)


def configuration(kind: str, trunk: str, **sections: Any) -> RunConfig:
    model = {"kind": kind, **SIZES[trunk]}
    document = {"run": {"dir": "unused"}, "model": model, "optim": {"steps": 1, "global_batch": 2}, **sections}
    return RunConfig.model_validate(document)


def network_of(kind: str, trunk: str) -> Any:
    config = configuration(kind, trunk)
    return build_model(config, Layout.single(config))


def drawn_weights(network: Any, seed: int = 0) -> Any:
    """The network with weights that are not zero anywhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return network.eval()


def arguments(trunk: str, num: int = 3) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(num, *SHAPES[trunk], generator=generator)
    return x_t, torch.rand(num, generator=generator), Condition()


def states(trunk: str, *leading: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(*leading, *SHAPES[trunk], generator=generator)
    return y, torch.rand(*leading, TOKENS[trunk], generator=generator)


@trunks
def test_the_trunk_is_the_plain_network_without_its_last_layer(trunk: str) -> None:
    plain, own = network_of(trunk, trunk), network_of(f"transition_{trunk}", trunk)
    before = dict(plain.named_parameters())
    last = [name for name in before if name.startswith("unembed")]
    names = [name for name, _ in own.named_parameters()]
    assert names[: len(before) - 2] == [name for name in before if name not in last]
    assert all(name.startswith("head.") for name in names[len(before) - 2 :])
    assert len(last) == 2
    for name, value in own.named_parameters():
        assert name.startswith("head.") or torch.equal(value, before[name])
    asked = arguments(trunk)
    drawn_weights(plain)
    own.load_state_dict({name: value for name, value in plain.state_dict().items() if name not in last}, strict=False)
    assert torch.equal(own.eval()(*asked, Tokens()), plain.tokens(*asked))


@trunks
def test_one_call_of_the_trunk_serves_several_draws(trunk: str) -> None:
    network = drawn_weights(network_of(f"transition_{trunk}", trunk))
    asked, (y, s) = arguments(trunk), states(trunk, 4, 3)
    calls: list[str] = []
    network.blocks[0].register_forward_hook(lambda *_: calls.append("trunk"))
    network.head.register_forward_hook(lambda *_: calls.append("head"))
    together = network(*asked, HeadVelocities(y, s))
    assert calls == ["trunk", "head"]
    tokens = network(*asked, Tokens())
    assert tokens.shape == (3, TOKENS[trunk], 16)
    apart = [network(*asked, FromTokens(tokens, *one)) for one in zip(y, s, strict=True)]
    assert calls == ["trunk", "head", "trunk", *4 * ["head"]]
    torch.testing.assert_close(together, torch.stack(apart))
    assert together.dtype == torch.float32


def test_a_token_is_drawn_from_its_own_state_time_and_features() -> None:
    network = drawn_weights(network_of("transition_dit", "dit"))
    tokens, (y, s) = network(*arguments("dit", 1), Tokens()), states("dit", 1)
    changed = [tokens.clone(), y.clone(), s.clone()]
    changed[0][:, 5] += 1
    changed[1][:, :, 2:4, 2:4] += 1  # the sixth patch of four in a row, two pixels a side
    changed[2][:, 5] = 0.5
    before = network.grid.patches(network(*arguments("dit", 1), FromTokens(tokens, y, s)))
    for place, value in enumerate(changed):
        given = [tokens, y, s]
        given[place] = value
        after = network.grid.patches(network(*arguments("dit", 1), FromTokens(*given)))
        moved = (before != after).any(2)[0]
        assert moved.nonzero().flatten().tolist() == [5]


@trunks
def test_velocities_start_at_zero(trunk: str) -> None:
    network = network_of(f"transition_{trunk}", trunk)
    assert not network(*arguments(trunk), HeadVelocities(*states(trunk, 2, 3))).any()


@trunks
def test_a_plain_call_is_the_mean_of_draws_from_fixed_noises(trunk: str) -> None:
    """One step from noise z is z + g(z, 0): the same draws, made one by one."""
    network = drawn_weights(network_of(f"transition_{trunk}", trunk))
    x_t, t, condition = arguments(trunk)
    with torch.no_grad():
        mean = network(x_t, t, condition)
        assert torch.equal(network(x_t[:1], t[:1], condition), network(x_t[:1].clone(), t[:1], condition))
        torch.testing.assert_close(network(x_t[1:], t[1:], condition), mean[1:])
        network.head.output.weight.zero_()
        network.head.output.bias.zero_()
        still = network(x_t, t, condition)
    assert torch.equal(still[0], still[1])
    assert float(still.mean()) == pytest.approx(0, abs=0.5)
    assert mean.shape == x_t.shape


@trunks
def test_training_costs_one_call_of_the_trunk_and_one_of_the_head_for_all_draws(trunk: str) -> None:
    config, network = configuration(f"transition_{trunk}", trunk), network_of(f"transition_{trunk}", trunk)
    asked, draws = arguments(trunk), 4
    tokens, (y, s) = network(*asked, Tokens()), states(trunk, 3)
    found = []
    for question in (Tokens(), FromTokens(tokens, y, s), HeadVelocities(*states(trunk, draws, 3))):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(*asked, question)
        found.append(counter.get_total_flops() // 3)
    trunk_alone, head, together = found
    assert trunk_alone + head < together < trunk_alone + draws * head  # all draws read the features once
    assert training_flops(config) == 3 * together


def test_an_objective_and_a_network_that_do_not_fit_are_refused() -> None:
    regression = configuration("transition_dit", "dit", flow={"objective": {"kind": "regression"}})
    with pytest.raises(
        ValueError, match=r"^flow\.objective\.kind: regression .* transition_dit .*; use transition, or"
    ):
        plan_layout(regression, 1)
    headless = configuration("dit", "dit", flow={"objective": {"kind": "transition"}})
    with pytest.raises(ValueError, match=r"trains a head, which a dit model lacks; use model\.kind transition_dit or"):
        plan_layout(headless, 1)
    sampled = configuration("mlp", "mlp", sample={"sampler": {"kind": "transition"}})
    with pytest.raises(ValueError, match=r"^sample\.sampler\.kind: transition .* use sample\.sampler\.kind euler"):
        plan_layout(sampled, 1)
    assert plan_layout(configuration("transition_mlp", "mlp", sample={"sampler": {"kind": "transition"}}), 1)


@pytest.mark.parametrize(
    ("flow", "remedy"),
    [
        ({"path": {"kind": "trigonometric"}}, r"or flow\.path\.kind linear$"),
        ({"target": {"kind": "data"}}, r"or flow\.target\.kind velocity$"),
    ],
)
def test_a_path_and_a_target_that_leave_no_difference_to_draw_are_refused(flow: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=rf"^flow\.objective\.kind: transition does not go with .*{remedy}"):
        plan_layout(configuration("transition_mlp", "mlp", flow=flow), 1)


def test_a_head_that_chooses_its_steps_cannot_share_weights() -> None:
    drawn = {"every": 1, "sampler": {"kind": "transition", "head": {"kind": "dopri5"}}}
    sections = {"sample": drawn, "engine": {"zero_stage": 3}}
    with pytest.raises(ValueError, match=r"^sample\.sampler\.kind: dopri5 takes another number of steps"):
        plan_layout(configuration("transition_mlp", "mlp", **sections), 2)
