"""The shortest path from the parts of a method to a trained network: one process, one small network, no files.

Whatever the training loop of a run would ask of a task is asked of it here too, so that a benchmark measures the parts
that runs are made of.
"""

import copy
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from moe.seeds import fold_in
from trainer.config.file import resolve
from trainer.config.run import RunConfig
from trainer.config.sections import OptimConfig
from trainer.data import Batch
from trainer.evaluation.quality import frechet_distance
from trainer.evaluation.transport import path_energy, straightness, wasserstein_2
from trainer.flow import UNCONDITIONAL, Condition, sampler
from trainer.flow.sampler import Euler, Trajectory
from trainer.model.network import Network
from trainer.task import Drawn, FlowTask, Task
from trainer.training.task import TrainedNetworks

Data = Callable[[int, torch.Generator], Batch]
"""Number of examples and generator to a batch of them."""

__all__ = [
    "Data",
    "PlainNetwork",
    "eight_gaussians",
    "flow_task",
    "follow",
    "frechet_distance",
    "path_energy",
    "rows",
    "straightness",
    "train",
    "wasserstein_2",
]


def flow_task(flow: dict[str, Any] | None = None, **sections: Any) -> FlowTask:
    """A flow-matching task out of the section ``flow`` of a run's configuration, over points in the plane.

    Args:
        flow: kinds and settings of coupling, time, path, target and objective; what is left out has its default.
        **sections: other sections of the configuration, in place of those of an mlp on toy data without classes.
    """
    document: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "data": {"kind": "toy", "name": "eight_gaussians"},
        "optim": {"steps": 1, "global_batch": 1},
        "flow": flow or {},
    }
    if sections.get("model", document["model"])["kind"] != "mlp":
        del document["data"]
    return FlowTask(RunConfig.model_validate(resolve({**document, **sections}).document))


class PlainNetwork(nn.Module):
    """A perceptron over the flattened state, the time and, where there are any, the class and the context.

    Args:
        num_values: of a state.
        hidden: width.
        layers: hidden layers.
        seed: of the initial weights.
        num_fields: states that a prediction holds one behind the other.
        num_classes: labels 0 to num_classes, the last of which stands for none; 0: labels are not read.
        num_context_values: values of the condition's context.
    """

    def __init__(
        self,
        num_values: int,
        *,
        hidden: int,
        layers: int,
        seed: int,
        num_fields: int = 1,
        num_classes: int = 0,
        num_context_values: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.label = nn.Embedding(num_classes + 1, hidden) if num_classes else None
            label_width = hidden if num_classes else 0
            widths = [num_values + num_context_values + 1 + label_width, *[hidden] * layers]
            steps: list[nn.Module] = []
            for before, after in itertools.pairwise(widths):
                steps += [nn.Linear(before, after), nn.SiLU()]
            self.layers = nn.Sequential(*steps, nn.Linear(hidden, num_fields * num_values))
        self.num_fields = num_fields

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Predicts [B, num_fields C, *rest] at states [B, C, *rest] and times [B]."""
        read = [x_t.flatten(1), t.to(x_t.dtype)[:, None]]
        if condition.context is not None:
            read.append(condition.context.flatten(1))
        if self.label is not None:
            assert condition.label is not None
            read.append(self.label(condition.label))
        predicted = self.layers(torch.cat(read, dim=1))
        return predicted.reshape(len(x_t), self.num_fields * x_t.shape[1], *x_t.shape[2:])


def train(
    task: Task,
    data: Data,
    network: nn.Module,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    ema: float | None = None,
    final_lr: float = 0.0,
    clip_norm: float | None = None,
    rates: Mapping[str, float] | None = None,
    watch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """Trains a network by Adam, its rate falling from `lr` to `final_lr` along half a cosine.

    Args:
        task: draws, collects once a cycle, and scores.
        data: where the examples come from.
        network: is trained in place.
        steps: optimiser steps.
        batch: examples of a step, all in one micro batch.
        lr: learning rate at the start.
        seed: of the examples and of everything that the task draws.
        ema: decay of the moving average of the weights, min(ema, (1 + step) / (10 + step)); None: no average.
        final_lr: learning rate at the end; `lr` keeps it constant.
        clip_norm: longest gradient; a longer one is shortened. None: none is.
        rates: factors of the learning rate, as in `optim.rates`; None: all are 1.
        watch: called after each step with its number and the network that would be returned then.

    Returns:
        The network, or a copy with the averaged weights; in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(_groups(network, rates or {}), lr=lr)
    average = copy.deepcopy(network) if ema is not None else None
    shares: deque[Sequence[Drawn]] = deque()
    network.train()
    for step in range(1, steps + 1):
        if not shares:
            shares.extend(_cycle(task, data, network, average, batch, generator))
        for group in optimizer.param_groups:
            falling = final_lr + (lr - final_lr) * (1 + math.cos(math.pi * (step - 1) / steps)) / 2
            group["lr"] = group["rate"] * falling
        passes = shares.popleft()
        optimizer.zero_grad()
        for drawn, weight in zip(passes, _weights(passes), strict=True):
            (task.loss(network, drawn).mean(weight) / len(passes)).backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        optimizer.step()
        if average is not None and ema is not None:
            weight = 1 - min(ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), weight)
        if watch is not None:
            watch(step, network if average is None else average)
    return (network if average is None else average).eval()


class PlainNetworks(TrainedNetworks):
    """A network that learns, and another with its averaged weights."""

    def __init__(self, network: Network, average: Network) -> None:
        super().__init__(network)
        self._average = average

    @contextmanager
    def average(self) -> Iterator[Network]:
        with torch.no_grad():
            yield self._average.eval()


def _groups(network: nn.Module, rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """The parameters, those of one factor of the learning rate together."""
    optim, by_rate = OptimConfig(steps=1, global_batch=1, rates=dict(rates)), dict[float, list[nn.Parameter]]()
    for name, parameter in network.named_parameters():
        by_rate.setdefault(optim.rate_of(name), []).append(parameter)
    return [{"params": parameters, "rate": rate} for rate, parameters in by_rate.items()]


def _cycle(
    task: Task,
    data: Data,
    network: nn.Module,
    average: nn.Module | None,
    batch: int,
    generator: torch.Generator,
) -> Iterator[Sequence[Drawn]]:
    """What each step of a cycle learns from, an entry for each pass."""
    drawn = [one for _ in range(task.cycle) for one in task.draw([data(batch, generator)], [generator])]
    network.eval()
    collected = task.collect(drawn, PlainNetworks(cast(Network, network), cast(Network, average or network)))
    network.train()
    for first in range(0, len(collected), task.passes):
        yield collected[first : first + task.passes]


def _weights(passes: Sequence[Drawn]) -> Sequence[Tensor | None]:
    """Weights of mean 1 over all passes of a step."""
    given = [one.log_weight for one in passes if one.log_weight is not None]
    if not given:
        return [None] * len(passes)
    relative = torch.cat(given).softmax(0)
    return (relative * len(relative)).split([len(one) for one in given])


def rows(x: Tensor, labels: Tensor | None = None, *, x_0: Tensor | None = None, interval: Tensor | None = None) -> Data:
    """Batches of a finite set, drawn with replacement.

    Args:
        x: [N, *D] examples.
        labels: int64 [N], or None.
        x_0: [N, *D] the source points that the examples are paired with, or None.
        interval: [N, 2] the times of both where pairs are parts of paths, or None.
    """

    def draw(num: int, generator: torch.Generator) -> Batch:
        ids = torch.randint(len(x), (num,), generator=generator)
        others = (None if values is None else values[ids] for values in (labels, x_0, interval))
        own_labels, source, times = others
        return Batch(x_1=x[ids], labels=own_labels, ids=ids, x_0=source, interval=times)

    return draw


def eight_gaussians(radius: float = 4.0, std: float = 0.3) -> Data:
    """Eight blobs around a circle in the plane, without labels; an example's id is the number of its blob."""

    def draw(num: int, generator: torch.Generator) -> Batch:
        part = torch.randint(8, (num,), generator=generator)
        angle = part * (math.pi / 4)
        centres = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        return Batch(centres + std * torch.randn(num, 2, generator=generator), None, ids=part)

    return draw


@torch.no_grad()
def follow(
    task: FlowTask,
    network: nn.Module,
    x_0: Tensor,
    steps: int = 100,
    *,
    condition: Condition = UNCONDITIONAL,
    guidance: float = 1.0,
    config: sampler.Config | None = None,
    seed: int = 0,
) -> Trajectory:
    """Follows the field that a network has learned from the source to the data.

    Args:
        task: that the network was trained for.
        network: in evaluation mode.
        x_0: [B, *D] where the paths start.
        steps: of Euler's method.
        condition: of the examples.
        guidance: scale of classifier-free guidance.
        config: another sampler, in place of Euler's method with `steps`.
        seed: of what the sampler draws.
    """
    config = config or Euler(steps=steps)
    field = task.parts.field(network, condition, guidance)
    keys = fold_in(torch.tensor(seed), torch.arange(len(x_0)))
    return config.build(task.parts.path).sample(field, x_0, config.grid(), keys=keys)
