"""Classes reach the samples through the labels that training does not hide, and through nothing else."""

import pytest
import torch

from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import build as build_data
from trainer.flow import Condition, sampler
from trainer.model.build import build_model
from trainer.task import FlowTask

PARTS, EACH = 8, 50
CONFIG = RunConfig.model_validate(
    {
        "run": {"dir": "unused"},
        "data": {"kind": "toy", "name": "eight_gaussians", "classes": True},
        "model": {"kind": "mlp", "hidden": 64, "num_layers": 2},
        "optim": {"steps": 1, "global_batch": 1},
    }
)


def accuracy(label_dropout: float, steps: int) -> float:
    """Share of samples that lie in the blob that was asked for, after training."""
    task, data = FlowTask(CONFIG), build_data(CONFIG.data)
    task.label_dropout = label_dropout
    network, generator = build_model(CONFIG, plan_layout(CONFIG, 1)), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(steps):
        (drawn,) = task.draw([data.get(torch.arange(256) + 256 * step)], [generator])
        optimizer.zero_grad()
        task.loss(network, drawn).mean().backward()
        optimizer.step()
    real = data.get(torch.arange(1000))
    assert real.labels is not None
    centres = torch.stack([real.x_1[real.labels == part].mean(0) for part in range(PARTS)])
    wanted = torch.arange(PARTS).repeat_interleave(EACH)
    config = sampler.Euler(steps=20)
    with torch.no_grad():
        field = task.parts.field(network.eval(), Condition(wanted), guidance=1.0)
        start = torch.randn(len(wanted), 2, generator=generator)
        final = config.build(task.parts.path).sample(field, start, config.grid()).final
    return float((torch.cdist(final, centres).argmin(1) == wanted).double().mean())


def test_shown_labels_are_followed_and_hidden_ones_are_chance() -> None:
    assert accuracy(0.1, steps=250) > 0.95
    spread = (1 / PARTS * (1 - 1 / PARTS) / (PARTS * EACH)) ** 0.5
    assert accuracy(1.0, steps=80) == pytest.approx(1 / PARTS, abs=4 * spread)
