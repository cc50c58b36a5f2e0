"""Multi-head adapter routing beside plain adapters, on many tasks and on new ones: python -m tests.benchmarks.methods.mhr

A frozen random perceptron 32-64-32. Each of 24 tasks changes both of its matrices by a mean of 4 latent modules of rank
2, mixed for each of 4 heads on its own: the generator is made for multi-head routing, so that the figures tell what the
arms can represent, not what natural tasks are like. Then come 8 new tasks of the same modules, 16 examples each.

Every arm has about as many parameters in its modules as four low-rank adapters of the rank of the row. Low-rank adapters
a task cannot be that small: theirs have rank 1 at the least, and the table says how many parameters that makes. Errors
are mean squares on fresh inputs over those of the frozen network alone; the floor is 0, for there is no noise. Few-shot
arms take 300 steps at the best of four rates for each, by the error that is told, which favours those that overfit.

Source: Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", arXiv 2211.03831.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe.adapters.routed import RoutedLinear
from moe.adapters.task_router import RowTasks
from tests.benchmarks.methods.bars import Bar, show

SEEDS, RANKS = (0, 1, 2), (1, 2, 4, 8)
WIDTHS = (32, 64, 32)
TASKS, NEW_TASKS, SHOTS = 24, 8, 16
LATENT, LATENT_RANK, HEADS, MODULES = 4, 2, 4, 4
STEPS, BATCH, LR, ROUTING_RATE = 2000, 480, 3e-3, 30.0
FEW_STEPS, FEW_RATES = 300, (3e-4, 1e-3, 3e-3, 1e-2)
ALONE = 200.0
"""Logits at which a sigmoid is 1 or 0, so that a task has a module to itself."""

Figures = dict[str, float]


class Perceptron(nn.Module):
    """Two linear layers that are adapted alike, and the tasks of the rows of a call."""

    def __init__(self, generator: torch.Generator) -> None:
        """Draws a random network."""
        super().__init__()
        self.rows = RowTasks()
        layers = [nn.utils.skip_init(nn.Linear, *widths) for widths in zip(WIDTHS, WIDTHS[1:], strict=False)]
        for layer in layers:
            nn.init.normal_(layer.weight, 0.0, layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def adapted(self, tasks: int, modules: int, heads: int, rank: int, generator: torch.Generator) -> "Perceptron":
        """A copy of the network with fresh adapters."""
        found = copy.deepcopy(self)
        sizes = {"num_tasks": tasks, "num_modules": modules, "num_heads": heads, "rank": rank}
        wrapped = [RoutedLinear(_bare(one), found.rows, **sizes, generator=generator) for one in found.layers]
        found.layers = nn.ModuleList(wrapped)
        return found

    def alone(self) -> "Perceptron":
        """The same network; its tasks have a module each, and nothing else."""
        for layer in self.routed:
            logits = layer.routing.logits
            with torch.no_grad():
                logits.fill_(-ALONE)
                logits.diagonal(dim1=0, dim2=2).fill_(ALONE)
            logits.requires_grad_(False)
        return self

    @property
    def routed(self) -> Iterator[RoutedLinear]:
        """The adapted layers."""
        return (layer for layer in self.layers if isinstance(layer, RoutedLinear))

    def forward(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Maps rows [B, 32] to [B, 32]."""
        self.rows.now = tasks
        first, second = self.layers
        return second(functional.relu(first(x)))


def _bare(layer: nn.Module) -> nn.Linear:
    if isinstance(layer, RoutedLinear):
        return layer.base
    assert isinstance(layer, nn.Linear)
    return layer


def truth(base: Perceptron, generator: torch.Generator) -> Perceptron:
    """The network that the tasks come from, old ones first."""
    found = base.adapted(TASKS + NEW_TASKS, LATENT, HEADS, LATENT_RANK, generator)
    with torch.no_grad():
        for layer in found.routed:
            layer.A_HMIR.normal_(0.0, layer.in_features**-0.5, generator=generator)
            layer.B_HMRO.normal_(0.0, LATENT_RANK**-0.5, generator=generator)
            mixture = torch._sample_dirichlet(torch.full(layer.routing.logits.shape, 0.5), generator=generator)
            layer.routing.logits.copy_(torch.logit(mixture.clamp(1e-6, 0.999)))
            layer.routing.logits.requires_grad_(False)
    return found


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    """What learns, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def optimiser(network: nn.Module, lr: float) -> torch.optim.Adam:
    """Adam, with a larger rate for the routing."""
    learns = trainable(network)
    routing = [parameter for name, parameter in learns.items() if "routing" in name]
    others = [parameter for name, parameter in learns.items() if "routing" not in name]
    groups = [{"params": others, "lr": lr}, {"params": routing, "lr": ROUTING_RATE * lr}]
    return torch.optim.Adam([group for group in groups if group["params"]])


def decayed(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Half a cosine down to zero."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)


def pretrain(student: Perceptron, teacher: Perceptron, seed: int) -> Perceptron:
    """Trains on fresh inputs, as many of each task."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = optimiser(student, LR)
    schedule = decayed(optimizer, STEPS)
    tasks = torch.arange(BATCH) % TASKS
    for _ in range(STEPS):
        x = torch.randn(BATCH, WIDTHS[0], generator=generator)
        loss = (student(x, tasks) - teacher(x, tasks).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student


@torch.no_grad()
def error(student: Perceptron, teacher: Perceptron, base: Perceptron, first: int, num: int) -> float:
    """Mean square over that of the frozen network, on fresh inputs of the tasks from `first` on, the student's from 0."""
    x = torch.randn(200 * num, WIDTHS[0], generator=torch.Generator().manual_seed(99))
    tasks = torch.arange(len(x)) % num
    wanted = teacher(x, first + tasks)
    return float((student(x, tasks) - wanted).square().mean() / (base(x, tasks) - wanted).square().mean())
