"""Routed adapters are what their paper says: means of modules by task and head, taken before the product."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from moe.adapters import RoutedLinear, RowTasks
from tests.each import each

TASKS, INPUTS, OUTPUTS = 5, 24, 12


def layer(*, modules: int, heads: int, rank: int = 2, scale: float = 1.0) -> RoutedLinear:
    """A layer in which nothing is zero, with tasks that differ."""
    generator = torch.Generator().manual_seed(0)
    base = nn.Linear(INPUTS, OUTPUTS)
    found = RoutedLinear(
        base, RowTasks(), num_tasks=TASKS, num_modules=modules, num_heads=heads, rank=rank, scale=scale
    )
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_(generator=generator)
    return found


def called(routed: RoutedLinear, x: Tensor, tasks: Tensor) -> Tensor:
    routed.rows.now = tasks
    return routed(x)


def rows(*tokens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, *tokens, INPUTS, generator=generator), torch.tensor([0, 3, 1, 1, 4, 2, 0])


def by_hand(routed: RoutedLinear, x: Tensor, task: int) -> Tensor:
    """The formula for one row [.., D], with loops over heads and modules."""
    (heads, modules, _, rank), scale = routed.A_HMIR.shape, routed.scale
    sigmoid = 1 / (1 + torch.exp(-routed.routing.logits[task]))
    weights = sigmoid / sigmoid.sum(1, keepdim=True)

    def mixed(of_modules: Tensor, head: int) -> Tensor:
        return torch.stack([weights[head, s] * of_modules[head, s] for s in range(modules)]).sum(0)

    a = torch.cat([mixed(routed.A_HMIR, head) for head in range(heads)], dim=0)
    b = torch.cat([mixed(routed.B_HMRO, head) for head in range(heads)], dim=1)
    assert a.shape == (INPUTS, rank)
    assert b.shape == (rank, OUTPUTS)
    return x @ routed.base.weight.T + routed.base.bias + scale * (x @ (a @ b))


@each("tokens", [(), (1,), (2,), (9,), (3, 4)])
@each("modules, heads", [(4, 1), (3, 4), (1, 2), (8, 12)])
def test_every_row_gets_the_modules_of_its_task(tokens: tuple[int, ...], modules: int, heads: int) -> None:
    routed = layer(modules=modules, heads=heads, scale=1.5).double()
    x, tasks = rows(*tokens)
    expected = torch.stack([by_hand(routed, row, int(task)) for row, task in zip(x.double(), tasks, strict=True)])
    torch.testing.assert_close(called(routed, x.double(), tasks), expected, rtol=1e-12, atol=1e-12)


@each("tokens", [(), (6,)])
def test_gradients_are_those_of_finite_differences(tokens: tuple[int, ...]) -> None:
    routed = layer(modules=2, heads=3, rank=1).double()
    x, tasks = rows(*tokens)
    names = ["A_HMIR", "B_HMRO", "routing.logits"]

    def output(x: Tensor, *values: Tensor) -> Tensor:
        routed.rows.now = tasks
        return torch.func.functional_call(routed, dict(zip(names, values, strict=True)), (x,))

    values = [routed.get_parameter(name).detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(output, (x.double().requires_grad_(), *values), fast_mode=True)


def test_one_module_and_one_head_are_a_low_rank_adapter_bit_for_bit() -> None:
    routed = layer(modules=1, heads=1)
    down, up = routed.A_HMIR[0, 0].T.contiguous(), routed.B_HMRO[0, 0].T.contiguous()
    for tokens in ((), (9,)):
        x, tasks = rows(*tokens)
        plain = routed.base(x) + routed.scale * functional.linear(functional.linear(x, down), up)
        assert torch.equal(called(routed, x, tasks), plain)


def test_a_task_that_asks_for_one_module_gets_it_alone() -> None:
    routed, alone = layer(modules=4, heads=3), layer(modules=1, heads=3)
    x, tasks = rows(9)
    with torch.no_grad():
        routed.routing.logits.fill_(-200.0)
        routed.routing.logits[..., 2] = 200.0
        alone.A_HMIR.copy_(routed.A_HMIR[:, 2:3])
        alone.B_HMRO.copy_(routed.B_HMRO[:, 2:3])
        alone.base.load_state_dict(routed.base.state_dict())
    torch.testing.assert_close(called(routed, x, tasks), called(alone, x, tasks))


def test_the_mean_module_is_what_equal_weights_make() -> None:
    routed = layer(modules=4, heads=3, scale=2.5)
    x, tasks = rows(9)
    with torch.no_grad():
        routed.routing.logits.fill_(0.7)
    down, up = routed.mean()
    mean = routed.base(x) + routed.scale * (x @ down.T @ up.T)
    torch.testing.assert_close(called(routed, x, tasks), mean, rtol=1e-5, atol=1e-5)


@each("heads", [1, 2, 4])
def test_heads_cost_no_parameters_but_those_of_the_routing(heads: int) -> None:
    routed = layer(modules=3, heads=heads, rank=2)
    adapters = sum(parameter.numel() for name, parameter in routed.named_parameters() if "base" not in name)
    assert adapters == 3 * 2 * (INPUTS + OUTPUTS) + TASKS * heads * 3


def test_fresh_modules_add_nothing_and_weigh_nearly_the_same() -> None:
    base = nn.Linear(INPUTS, OUTPUTS)
    generator = torch.Generator().manual_seed(3)
    sizes = {"num_tasks": TASKS, "num_modules": 4, "num_heads": 2, "rank": 2}
    routed = RoutedLinear(base, RowTasks(), generator=generator, **sizes)
    assert routed.A_HMIR.abs().max() <= (2 / INPUTS) ** 0.5
    x, tasks = rows(9)
    assert torch.equal(called(routed, x, tasks), routed.base(x))
    torch.testing.assert_close(routed.routing.weights(), torch.full((TASKS, 2, 4), 0.25), rtol=2e-3, atol=0)


def test_weights_stay_whole_where_every_sigmoid_is_zero() -> None:
    routed = layer(modules=4, heads=2)
    with torch.no_grad():
        routed.routing.logits.fill_(-500.0)
    torch.testing.assert_close(routed.routing.weights(), torch.full((TASKS, 2, 4), 0.25))


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"heads: 5 does not divide 24 inputs"):
        layer(modules=2, heads=5)
    routed = layer(modules=2, heads=2)
    x, tasks = rows()
    with pytest.raises(ValueError, match="task: None"):
        routed(x)
    with pytest.raises(ValueError, match="task: 3 rows, where a routed layer has 7"):
        called(routed, x, tasks[:3])


@pytest.mark.slow
@pytest.mark.parametrize("heads", [1, 4])
def test_agrees_with_another_implementation(heads: int) -> None:
    poly = pytest.importorskip("peft.tuners.poly.layer", reason="peft is not installed")
    routed = layer(modules=4, heads=heads, rank=3, scale=1 / 3).double()
    config = poly.PolyConfig(r=3, n_tasks=TASKS, n_skills=4, n_splits=heads, init_weights=False)
    other = poly.Linear(routed.base, "default", config).eval()
    with torch.no_grad():
        other.poly_lora_A["default"].copy_(routed.A_HMIR)
        other.poly_lora_B["default"].copy_(routed.B_HMRO)
        other.poly_router["default"].module_logits.copy_(routed.routing.logits.flatten(1))
    x, tasks = rows(9)
    x = x.double()
    with torch.no_grad():
        expected = other(x, task_ids=tasks)
        torch.testing.assert_close(called(routed, x, tasks), expected, rtol=1e-6, atol=1e-6)
        by_row = called(routed, x[:, 0], tasks)
        torch.testing.assert_close(by_row, expected[:, 0], rtol=1e-6, atol=1e-6)
