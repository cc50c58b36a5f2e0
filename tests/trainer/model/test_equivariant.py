"""The network of atoms in space: what turns with it, and what does not change."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.config.file import resolve
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import build
from trainer.flow import Condition
from trainer.model.build import build_model
from trainer.model.network import Network


def network(target: str) -> tuple[RunConfig, Network]:
    document: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": "equivariant", "hidden": 16, "num_layers": 2},
        "data": {"kind": "reactions", "held_out": 9},
        "flow": {"coupling": {"kind": "ends"}, "target": {"kind": target}},
        "optim": {"steps": 1, "global_batch": 4},
    }
    config = RunConfig.model_validate(resolve(document).document)
    made = build_model(config, plan_layout(config, 1))
    with torch.no_grad():
        for parameter in made.parameters():  # the last layers begin at 0
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return config, made


def states(config: RunConfig, num: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    data = build(config.data)
    batch = data.get(data.indices("held_out")[:num])
    assert batch.context is not None
    noise = torch.randn(batch.x_1.shape, generator=torch.Generator().manual_seed(2))
    return batch.x_1 + 0.4 * noise * batch.context[:, -1:], torch.linspace(0.1, 0.9, num), batch.context


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("target", ["velocity", "data"])
@torch.no_grad()
def test_a_prediction_turns_shifts_and_mirrors_with_the_atoms(target: str, mirrored: bool) -> None:
    config, made = network(target)
    x, t, context = states(config)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))
    if (torch.det(turn) < 0) != mirrored:
        turn = -turn
    shift = torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1)

    def turned(points: Tensor) -> Tensor:
        return torch.einsum("ij,bjkn->bikn", turn, points)

    moved = torch.cat([turned(context[:, :3]) + shift, turned(context[:, 3:6]) + shift, context[:, 6:]], dim=1)
    first, second = made(x, t, Condition(context=context)), made(turned(x) + shift, t, Condition(context=moved))
    wanted = turned(first) + (shift if target == "data" else 0)
    assert (second - wanted).abs().max() < 5e-6 * max(1.0, float(wanted.abs().max()))


@torch.no_grad()
def test_the_order_of_atoms_means_nothing() -> None:
    config, made = network("velocity")
    x, t, context = states(config)
    order = torch.randperm(x.shape[-1], generator=torch.Generator().manual_seed(4))
    found = made(x[..., order], t, Condition(context=context[..., order]))
    torch.testing.assert_close(found, made(x, t, Condition(context=context))[..., order], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_absent_atoms_change_nothing() -> None:
    config, made = network("data")
    x, t, context = states(config)
    wider = [torch.nn.functional.pad(one, (0, 4)) for one in (x, context)]
    found = made(wider[0], t, Condition(context=wider[1]))
    torch.testing.assert_close(found[..., :-4], made(x, t, Condition(context=context)), atol=1e-5, rtol=1e-4)
    assert not found[..., -4:].any()


@pytest.mark.parametrize("target", ["velocity", "data"])
@torch.no_grad()
def test_atoms_that_are_not_free_stay(target: str) -> None:
    config, made = network(target)
    x, t, context = states(config)
    fixed = ~(context[:, -1:] > 0).expand(-1, 3, -1, -1)
    found = made(x, t, Condition(context=context))
    stays = context[:, :3] if target == "data" else torch.zeros_like(x)
    torch.testing.assert_close(found[fixed], stays[fixed])
    assert (found[~fixed] - stays[~fixed]).abs().min() > 1e-6
