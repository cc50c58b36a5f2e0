"""Two views of each example of a batch."""

import torch
from torch import Tensor

from moe.host_copies import to_device
from trainer.config.task.representation import Views
from trainer.data.picture import moved


def two_views(x_1: Tensor, generator: torch.Generator, settings: Views) -> tuple[Tensor, Tensor]:
    """Two views of examples [B, *D], each like `x_1`; drawn from a CPU generator alone, of whatever device they are."""
    return _view(x_1, generator, settings), _view(x_1, generator, settings)


def _view(x_1: Tensor, generator: torch.Generator, settings: Views) -> Tensor:
    """One view. Draws are of the host, so that they are the same on any device, and are copied without a wait."""
    num, view = len(x_1), x_1
    if settings.shift or settings.flip:
        shifts = torch.randint(-settings.shift, settings.shift + 1, (2, num, 1), generator=generator)
        flipped = torch.rand(num, 1, generator=generator) < settings.flip
        down, right = to_device(shifts, x_1.device)
        view = moved(view, down, right, to_device(flipped, x_1.device))
    if settings.scale:
        factors = 1 + settings.scale * (2 * torch.rand(num, *[1] * (x_1.ndim - 1), generator=generator) - 1)
        view = view * to_device(factors, x_1.device)
    if settings.noise:
        view = view + settings.noise * to_device(torch.randn(x_1.shape, generator=generator), x_1.device)
    return view
