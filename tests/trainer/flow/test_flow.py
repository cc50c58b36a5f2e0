"""The parts together: a small network learns to carry noise to a two-dimensional set."""

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from trainer.flow import UNCONDITIONAL, Condition, coupling, objective, path, sampler, target, time
from trainer.flow.field import NetworkField


def eight_gaussians(size: int, generator: torch.Generator) -> Tensor:
    angle = torch.randint(8, (size,), generator=generator) * (math.pi / 4)
    return 4 * torch.stack((angle.cos(), angle.sin()), 1) + 0.3 * torch.randn(size, 2, generator=generator)


def distance(x: Tensor, y: Tensor) -> float:
    """The 2-Wasserstein distance of two equally large sets, by exact assignment."""
    cost = torch.cdist(x, y).square().numpy()
    return float(cost[linear_sum_assignment(cost)].mean() ** 0.5)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x_t: Tensor, t: Tensor, _condition: Condition = UNCONDITIONAL) -> Tensor:
        return self.layers(torch.cat((x_t, t.unsqueeze(1)), 1))


def test_a_trained_flow_lands_on_the_data():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = Network()
    straight = path.LinearConfig().build()
    parts = coupling.build(coupling.Independent()), time.build(time.Uniform())
    regression = objective.Regression().build(objective.ObjectiveInputs(target.Velocity().build(straight)))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(400):
        pairs = parts[0].draw(eight_gaussians(256, generator), UNCONDITIONAL, generator=generator)
        t = parts[1].sample(256, generator=generator, device="cpu")
        point = straight.sample(pairs, t, generator=generator)
        loss = regression.loss(model, point, pairs.condition).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    data, other, noise = eight_gaussians(600, generator), eight_gaussians(600, generator), torch.randn(600, 2)
    field = NetworkField(lambda x, t: model(x, t), target.Velocity().build(straight))
    with torch.no_grad():
        samples = sampler.Euler(steps=30).build(straight).sample(field, noise, sampler.Euler(steps=30).grid())
    assert distance(samples.final, data) < distance(noise, data) / 3
    assert distance(samples.final, data) < distance(other, data) + 0.6
