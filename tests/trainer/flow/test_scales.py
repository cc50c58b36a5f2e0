"""What couplings do by default, in few dimensions and in many: pairs that count, and what transport gains.

States of 2 values: eight Gaussians; of 64: the digits of scikit-learn between -1 and 1; of 3,072: random fields with
the power law of natural images, each with its own brightness and contrast, of mean 0 and deviation 1 over all.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import torch
from torch import Tensor

from tests.each import each
from trainer.flow import UNCONDITIONAL, coupling

BATCH, DRAWS = 256, 2


def eight_gaussians(generator: torch.Generator) -> Tensor:
    angle = torch.randint(8, (BATCH,), generator=generator) * math.pi / 4
    return 4 * torch.stack([angle.cos(), angle.sin()], 1) + 0.3 * torch.randn(BATCH, 2, generator=generator)


def digits(generator: torch.Generator) -> Tensor:
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits(return_X_y=True)[0]).float() / 8 - 1
    return images[torch.randperm(len(images), generator=generator)[:BATCH]]


def fields(generator: torch.Generator) -> Tensor:
    frequency = torch.fft.fftfreq(32)
    amplitude = 1 / (frequency[:, None].square() + frequency.square()).sqrt().clamp_min(1 / 32)
    white = torch.randn(BATCH, 3, 32, 32, generator=generator)
    images = torch.fft.ifft2(torch.fft.fft2(white) * amplitude).real
    images = images / images.std((1, 2, 3), keepdim=True)
    contrast = 0.5 + torch.rand(BATCH, 1, 1, 1, generator=generator)
    images = contrast * images + 0.5 * torch.randn(BATCH, 1, 1, 1, generator=generator)
    return (images - images.mean()) / images.std()


DATA: dict[int, Callable[[torch.Generator], Tensor]] = {2: eight_gaussians, 64: digits, 3072: fields}
values = each("num_values", DATA)
costs = each("cost", ["l2", "sqeuclidean"])


def batches(num_values: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(num_values)
    every = [DATA[num_values](generator) for _ in range(3)]
    return [(torch.randn(data.shape, generator=generator), data) for data in every]


def pair_cost(x_0: Tensor, x_1: Tensor, cost: str) -> float:
    distance = (x_0 - x_1).flatten(1).double().norm(dim=1)
    return float((distance if cost == "l2" else distance.square()).mean())


@costs
@values
def test_a_good_part_of_the_weighted_pairs_counts(num_values: int, cost: Any) -> None:
    built, generator = coupling.build(coupling.GibbsWeighted(cost=cost)), torch.Generator().manual_seed(1)
    for x_0, x_1 in batches(num_values):
        pairs = built.draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator)
        assert pairs.log_weight is not None
        weight = pairs.log_weight.double().exp().numpy()
        assert 0.3 <= weight.sum() ** 2 / (BATCH * np.square(weight).sum()) <= 0.8
        closer = np.average((x_0 - x_1).flatten(1).norm(dim=1).numpy(), weights=weight)
        assert closer < pair_cost(x_0, x_1, "l2")


@costs
@values
def test_entropic_pairs_gain_nine_tenths_of_what_exact_ones_gain(num_values: int, cost: Any) -> None:
    built = coupling.build(coupling.MinibatchOT(solver="sinkhorn", cost=cost))
    generator, gained, most = torch.Generator().manual_seed(1), 0.0, 0.0
    for x_0, x_1 in batches(num_values):
        metric = "euclidean" if cost == "l2" else "sqeuclidean"
        matrix = ot.dist(x_0.flatten(1).double().numpy(), x_1.flatten(1).double().numpy(), metric=metric)
        independent = float(np.asarray(matrix).mean())
        for _ in range(DRAWS):
            pairs = built.draw(x_1, UNCONDITIONAL, x_0=x_0, generator=generator)
            gained += (independent - pair_cost(pairs.x_0, pairs.x_1, cost)) / DRAWS
        most += independent - float(np.asarray(ot.emd2([], [], matrix)))
    assert gained >= 0.9 * most
