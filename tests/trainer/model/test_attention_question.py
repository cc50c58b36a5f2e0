"""Where a diffusion transformer's patches look: the softmax written out, and the cost that is made of it."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.trainer.model.test_model import configuration, dense, states, stirred
from trainer.config.rules.drawing import of_cost
from trainer.config.rules.objection import refuse
from trainer.config.sections import DeepSpeedConfig
from trainer.flow import Condition, sampler
from trainer.flow.control.protocol import ControlInputs, CostGradient, CostGradientConfig
from trainer.flow.cost import AttentionConfig
from trainer.flow.question import WithAttention
from trainer.model.dit import DiT
from trainer.model.network import prepare_blocks
from trainer.sampling.flow import FlowParts

HALVES = AttentionConfig(subjects=((0, 1, 4, 5), (10, 11, 14, 15)))


def attention_of_blocks(model: DiT, x: Tensor, t: Tensor, label: Tensor) -> list[Tensor]:
    """[B, N, N] of each block, from what its layer of queries, keys and values returns, head by head."""
    seen: list[Tensor] = []
    hooks = [
        block.get_submodule("qkv").register_forward_hook(lambda *call: seen.append(call[-1])) for block in model.blocks
    ]
    model(x, t, Condition(label))
    for hook in hooks:
        hook.remove()
    found = []
    for values in seen:
        query, key, _ = values.chunk(3, dim=-1)
        heads = []
        for one_query, one_key in zip(query.split(8, -1), key.split(8, -1), strict=True):
            scores = torch.einsum("bnd,bmd->bnm", one_query, one_key) / 8**0.5
            heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True))
        found.append(torch.stack(heads).mean(0))
    return found


@pytest.mark.parametrize("settings", [{}, {"embeddings": "each_block"}], ids=str)
@torch.no_grad()
def test_the_rows_are_the_softmax_written_out(settings: dict[str, Any]) -> None:
    model, (x, t, label) = stirred(dense(**settings)).eval(), states()
    blocks, tokens = attention_of_blocks(model, x, t, label), torch.tensor([3, 0, 9])
    assert [one.shape for one in blocks] == 2 * [(3, 16, 16)]
    for chosen, expected in ((None, (blocks[0] + blocks[1]) / 2), ((0,), blocks[0]), ((1,), blocks[1])):
        prediction, rows = model(x, t, Condition(label), WithAttention(tokens, chosen))
        assert torch.equal(prediction, model(x, t, Condition(label))), "the question changes no bit"
        torch.testing.assert_close(rows, expected[:, tokens])


@torch.no_grad()
def test_blocks_that_compute_twice_answer_the_same() -> None:
    model, (x, t, label) = stirred(dense()).eval(), states()
    again = copy.deepcopy(model)
    prepare_blocks(again.blocks, DeepSpeedConfig(activation_checkpointing=True))
    question = WithAttention(torch.tensor([2, 7]))
    for one, other in zip(
        model(x, t, Condition(label), question), again(x, t, Condition(label), question), strict=True
    ):
        assert torch.equal(one, other)


def test_the_gradient_of_the_cost_is_the_one_of_finite_differences() -> None:
    model, (x, t, label) = stirred(dense()).eval().double(), states()
    asked = HALVES.build(model)
    x = x.double().requires_grad_()
    values = asked(x, t, Condition(label))
    assert values.shape == (3,)
    assert bool(((values > 0) & (values < 1)).all())
    (gradient,) = torch.autograd.grad(values.sum(), x)
    along, size = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double(), 1e-2
    with torch.no_grad():
        up, down = (asked(x + sign * size * along, t, Condition(label)) for sign in (1, -1))
    slope = ((up - down) / (2 * size)).double()
    torch.testing.assert_close((gradient * along).sum((1, 2, 3)), slope, rtol=1e-2, atol=1e-5)
    assert float(slope.abs().min()) > 1e-4


def test_the_cost_of_an_example_is_a_function_of_its_row() -> None:
    model, (x, t, label) = stirred(dense()).eval(), states()
    asked = HALVES.build(model)
    together = asked(x, t, Condition(label))
    alone = torch.cat([asked(x[i : i + 1], t[i : i + 1], Condition(label[i : i + 1])) for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("goal", ["separate", "gather"])
@torch.no_grad()
def test_the_cost_falls_while_a_network_draws(goal: str) -> None:
    model, config, num = stirred(dense(), seed=3).eval(), configuration(), 16
    parts, condition = FlowParts(config), Condition(torch.arange(num) % 10)
    settings = HALVES.model_copy(update={"goal": goal})
    asked, steps = settings.build(model), sampler.Euler(steps=10)
    start, found = torch.randn(num, 1, 8, 8, generator=torch.Generator().manual_seed(2)), []
    for strength in (0.0, 100.0):
        control = CostGradientConfig(cost=settings, strength=strength)
        inputs = ControlInputs(parts.path, condition, model)
        field = CostGradient(control, inputs).over(parts.field(model, condition, 1.5))
        drawn = steps.build(parts.path).sample(field, start, steps.grid())
        found.append(asked(drawn.final, torch.ones(num), condition))
    assert float((found[1] < found[0]).float().mean()) > 0.8
    assert all(parameter.grad is None for parameter in model.parameters())


class NoWaiting(TorchDispatchMode):
    """Refuses what makes a host wait for its device: values that Python reads, and shapes that depend on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "local_scalar" not in str(func)
        assert "nonzero" not in str(func)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_the_host_does_not_wait_for_the_device() -> None:
    model, (x, t, label) = stirred(dense()).eval(), states()
    parts, condition = FlowParts(configuration()), Condition(label)
    field = parts.field(model, condition, 1.5)
    changed = CostGradient(CostGradientConfig(cost=HALVES), ControlInputs(parts.path, condition, model)).over(field)
    expected = changed(x, t)
    with NoWaiting():
        assert torch.equal(changed(x, t), expected)
        with pytest.raises(AssertionError):
            float(x.sum())


@pytest.mark.parametrize(
    ("settings", "model", "message"),
    [
        ({"subjects": [[0], [16]]}, {}, "sample.cost.subjects: 16 is not among the 16 patches of a state"),
        ({"subjects": [[0], [1]], "blocks": [2]}, {}, "sample.cost.blocks: 2 is not among the 2 blocks"),
        ({"subjects": [[0], [1]]}, {"kind": "blockwise"}, "sample.cost.kind: attention is that of a dit"),
    ],
)
def test_a_cost_that_the_network_cannot_tell_is_refused(
    settings: dict[str, Any], model: dict[str, Any], message: str
) -> None:
    run = configuration()
    if model:
        run = run.model_validate({**run.model_dump(exclude={"model", "moe"}), "model": model})
    with pytest.raises(ValueError, match=message):
        refuse(of_cost(run, AttentionConfig.model_validate(settings), "sample.cost"))
    refuse(of_cost(configuration(), HALVES, "sample.cost"))
