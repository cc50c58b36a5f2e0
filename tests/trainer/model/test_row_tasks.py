"""The layers of a network see the tasks of the rows of the pass that they compute, whenever they compute it."""

import copy

import pytest
import torch
from torch import Tensor, nn

from moe.adapters import RoutedLinear, RowTasks
from trainer.config.model import DiTConfig, MLPConfig
from trainer.config.sections import DeepSpeedConfig
from trainer.flow.condition import Condition
from trainer.model.adapted import pass_tasks
from trainer.model.dit import DiT, FeedForward
from trainer.model.mlp import MLP
from trainer.model.network import Network, NetworkSpec, prepare_blocks


def network(kind: str = "dit") -> Network:
    """A small network in which nothing is zero; every linear layer of its blocks is routed over three tasks."""
    if kind == "dit":
        config = DiTConfig(hidden=16, num_layers=2, num_heads=2, patch_size=2)
        made: Network = DiT(
            NetworkSpec(config=config, state_shape=(1, 8, 8), num_classes=3, mixture=lambda _: FeedForward(16, 32))
        )
    else:
        config = MLPConfig(hidden=16, num_layers=2)
        made = MLP(NetworkSpec(config=config, state_shape=(64,), num_classes=3, mixture=lambda _: FeedForward(16, 32)))
    rows = RowTasks()
    for parent in list(made.blocks.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, RoutedLinear(child, rows, num_tasks=3, num_modules=2, num_heads=4, rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    pass_tasks(made, rows)
    return made


def called(made: Network, tasks: list[int], seed: int = 1) -> Tensor:
    """A pass over rows that a seed gives, each of its own task."""
    generator = torch.Generator().manual_seed(seed)
    x, t = torch.randn(len(tasks), 1, 8, 8, generator=generator), torch.rand(len(tasks), generator=generator)
    x = x if isinstance(made, DiT) else x.flatten(1)
    return made(x, t, Condition(label=torch.zeros(len(tasks), dtype=torch.int64), task=torch.tensor(tasks)))


def gradients(made: Network) -> list[Tensor]:
    """Of two passes over other rows whose losses go backward together, the last one first."""
    loss = called(made, [2, 0, 1]).square().sum() - called(made, [1, 1, 2, 0], seed=2).square().sum()
    loss.backward()
    return [torch.zeros(()) if one.grad is None else one.grad for one in made.parameters()]


@pytest.mark.parametrize("kind", ["dit", "mlp"])
def test_rows_do_not_see_each_others_tasks(kind: str) -> None:
    made = network(kind)
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(3, 1, 8, 8, generator=generator), torch.rand(3, generator=generator)
    x = x if kind == "dit" else x.flatten(1)
    tasks = torch.tensor([2, 0, 1])
    together = made(x, t, Condition(task=tasks))
    alone = torch.cat([made(x[i : i + 1], t[i : i + 1], Condition(task=tasks[i : i + 1])) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, made(x, t, Condition(task=tasks.flip(0))), atol=1e-3)


def test_blocks_that_are_computed_again_see_the_tasks_of_their_own_pass() -> None:
    plain, again = network(), network()
    prepare_blocks(again.blocks, DeepSpeedConfig(activation_checkpointing=True))
    for one, other in zip(gradients(plain), gradients(again), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_compiled_blocks_see_the_tasks_of_each_pass() -> None:
    plain, compiled = network(), network()
    for block in compiled.blocks:
        vars(block)["forward"] = torch.compile(block.forward, fullgraph=True, backend="aot_eager")
    for one, other in zip(gradients(plain), gradients(compiled), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_copy_of_a_network_tells_its_own_layers() -> None:
    made = network()
    copied = copy.deepcopy(made)
    before = called(copied, [0, 1])
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.zero_()
    assert torch.equal(called(copied, [0, 1]), before)
    assert list(copied.state_dict()) == list(made.state_dict())


def test_tasks_of_a_pass_are_forgotten_after_it() -> None:
    made = network()
    called(made, [0, 1])
    with pytest.raises(ValueError, match="task: None, and routed adapters read the task of each row"):
        made(torch.zeros(2, 1, 8, 8), torch.zeros(2), Condition())
    with pytest.raises(ValueError, match="task: 1 rows, where a routed layer has 2"):
        made(torch.zeros(2, 1, 8, 8), torch.zeros(2), Condition(task=torch.tensor([0])))
    called(made, [0, 1])
