"""Weighted flow matching in a plain PyTorch loop: `trainer.flow` alone, no run configuration and no process group.

python configs/examples/plain_loop.py
"""

import torch
from torch import Tensor, nn

from trainer.flow.coupling import GibbsWeighted
from trainer.flow.matching import FlowMatching
from trainer.flow.sampler import Heun

STEPS, BATCH = 500, 512


def moons(number: int, generator: torch.Generator) -> Tensor:
    """Two half circles of radius 1 with a little noise, [number, 2]."""
    angle = torch.pi * torch.rand(number, generator=generator)
    side = torch.randint(0, 2, (number,), generator=generator) * 2 - 1
    points = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1) * side[:, None]
    return points + 0.05 * torch.randn(number, 2, generator=generator)


class Network(nn.Module):
    """Predicts the velocity [B, 2] from the state and the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x_t: Tensor, t: Tensor, *_: object) -> Tensor:
        """Called with a condition too, which this data set does not have."""
        return self.layers(torch.cat([x_t, t[:, None]], dim=1))


def main() -> None:
    """Trains, and draws 2,000 points."""
    torch.manual_seed(0)
    generator, network = torch.Generator().manual_seed(0), Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    flow = FlowMatching(coupling=GibbsWeighted(cost="sqeuclidean", epsilon=4.0))

    for _ in range(STEPS):
        t, x_t, target, weight, _ = flow.draw(moons(BATCH, generator), generator=generator)
        loss = (weight * (network(x_t, t) - target).square().mean(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        noise = torch.randn(2000, 2, generator=generator)
        points = Heun().sample(flow.field(network), noise, torch.linspace(0, 1, 21)).final
    away = torch.cdist(points, moons(2000, generator)).amin(1).mean()
    print(f"loss {loss.item():.3f}; samples lie {away:.3f} from the nearest data point on average, noise ", end="")
    print(f"{torch.cdist(noise, moons(2000, generator)).amin(1).mean():.3f}")


if __name__ == "__main__":
    main()
