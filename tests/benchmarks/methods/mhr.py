"""Multi-head adapter routing beside plain adapters: python -m tests.benchmarks.methods.mhr

A frozen random perceptron 32-64-32. Each of 24 tasks changes both of its matrices by a mean of 4 latent modules of rank
2, mixed for each of 4 heads on its own: the generator is made for multi-head routing, so that the figures tell what the
arms can represent, not what natural tasks are like. Then come 8 new tasks of the same modules, 16 examples each.

Every arm has about as many parameters in its modules as four low-rank adapters of the rank of the table. Low-rank
adapters a task cannot be that small: theirs have rank 1 at the least, and the table says how many parameters that
makes. Errors are mean squares on fresh inputs over those of the frozen network alone; the floor is 0, for there is no
noise. Few-shot arms take 200 steps at one of three rates, each arm at the one with the least mean error on the seeds of
`--pick-seeds`, at that rank; other seeds are reported.

The modules have rank 2: rank 1 cannot hold them, and its row has no bar. The alignment is the mean cosine between the
gradients of two tasks after a tenth of the steps; it is told, no bar.

Source: Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", arXiv 2211.03831.
"""

import copy
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe.adapters import RoutedLinear, RowTasks
from tests.benchmarks.methods import by_seed
from tests.benchmarks.methods.bars import Bar, show

RANKS = (1, 2, 4, 8)
WIDTHS = (32, 64, 32)
TASKS, NEW_TASKS, SHOTS = 24, 8, 16
LATENT, LATENT_RANK, HEADS, MODULES = 4, 2, 4, 4
STEPS, BATCH, LR, ROUTING_RATE = 800, 240, 3e-3, 30.0
FEW_STEPS, FEW_RATES = 200, (1e-3, 3e-3, 1e-2)
ALONE = 200.0
"""Logits at which a sigmoid is 1 or 0, so that a task has a module to itself."""

SHARED, OWN, POLY, MHR = "LoRA, shared, of the same size", "LoRA, one a task", "Poly", "MHR"
SCRATCH = "LoRA from scratch"

Figures = dict[str, float]
P = TypeVar("P", bound="Perceptron")


class Perceptron(nn.Module):
    """Linear layers that are adapted alike, and the tasks of the rows of a call.

    Args:
        generator: draws the layers.
        widths: of the input, of what is hidden, and of the output.
    """

    def __init__(self, generator: torch.Generator, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.rows = RowTasks()
        layers = [nn.Linear(*sides) for sides in itertools.pairwise(widths)]
        for layer in layers:
            nn.init.normal_(layer.weight, 0.0, layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def adapted(self, tasks: int, modules: int, heads: int, rank: int, generator: torch.Generator) -> Self:
        """A copy of the network with fresh adapters."""
        found = copy.deepcopy(self)
        sizes = {"num_tasks": tasks, "num_modules": modules, "num_heads": heads, "rank": rank}
        wrapped = [RoutedLinear(_bare(one), found.rows, **sizes, generator=generator) for one in found.layers]
        found.layers = nn.ModuleList(wrapped)
        return found

    def alone(self) -> Self:
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
        return self.through(x)

    def through(self, x: Tensor) -> Tensor:
        """Maps rows whose tasks are known."""
        *hidden, last = self.layers
        for layer in hidden:
            x = functional.relu(layer(x))
        return last(x)


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


def pretrain(student: Perceptron, teacher: Perceptron, seed: int) -> float:
    """Trains on fresh inputs, as many of each task, and tells the alignment of gradients after a tenth of the steps."""
    aligned, generator = 0.0, torch.Generator().manual_seed(seed)
    optimizer = optimiser(student, LR)
    schedule = decayed(optimizer, STEPS)
    tasks = torch.arange(BATCH) % TASKS
    for step in range(STEPS):
        if step == STEPS // 10:
            aligned = alignment(student, teacher)
        x = torch.randn(BATCH, WIDTHS[0], generator=generator)
        loss = (student(x, tasks) - teacher(x, tasks).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return aligned


@torch.no_grad()
def error(student: Perceptron, teacher: Perceptron, base: Perceptron, first: int, num: int) -> float:
    """Mean square over that of the frozen network; the student counts the teacher's tasks from `first` on from 0."""
    x = torch.randn(200 * num, WIDTHS[0], generator=torch.Generator().manual_seed(99))
    tasks = torch.arange(len(x)) % num
    wanted = teacher(x, first + tasks)
    return float((student(x, tasks) - wanted).square().mean() / (base(x, tasks) - wanted).square().mean())


def frozen(network: P, kinds: Sequence[str]) -> P:
    """The network, whose parameters with one of some parts in their names do not learn any more."""
    for name, parameter in trainable(network).items():
        parameter.requires_grad_(not any(kind in name for kind in kinds))
    return network


def on_new_tasks(trained: P, tasks: int, generator: torch.Generator) -> P:
    """The modules of a network, with fresh routing for new tasks."""
    (_, heads, modules), rank = next(trained.routed).routing.logits.shape, next(trained.routed).A_HMIR.shape[-1]
    found = trained.adapted(tasks, modules, heads, rank, generator)
    with torch.no_grad():
        for new, old in zip(found.routed, trained.routed, strict=True):
            new.A_HMIR.copy_(old.A_HMIR)
            new.B_HMRO.copy_(old.B_HMRO)
    return found


def with_mean_modules(trained: P, tasks: int, generator: torch.Generator) -> P:
    """A network whose tasks have a low-rank adapter each, which begins as the mean module."""
    rank = next(trained.routed).A_HMIR.shape[-1]
    found = trained.adapted(tasks, tasks, 1, rank, generator).alone()
    with torch.no_grad():
        for new, old in zip(found.routed, trained.routed, strict=True):
            A_RD, B_PR = old.mean()
            new.A_HMIR.copy_(A_RD.T.expand_as(new.A_HMIR))
            new.B_HMRO.copy_(B_PR.T.expand_as(new.B_HMRO))
    return found


def few_shot(start: Perceptron, teacher: Perceptron, base: Perceptron, seed: int, rate: float) -> float:
    """Error on the new tasks after 16 examples of each.

    Args:
        start: knows the new tasks as 0, 1 and so on; stays as it is.
        teacher: where the tasks come from.
        base: the frozen network.
        seed: of the examples, which depend on the teacher's number of their task.
        rate: of learning.
    """
    generators = [torch.Generator().manual_seed(1000 * seed + TASKS + task) for task in range(NEW_TASKS)]
    x = torch.cat([torch.randn(SHOTS, WIDTHS[0], generator=generator) for generator in generators])
    tasks = torch.arange(NEW_TASKS).repeat_interleave(SHOTS)
    wanted, student = teacher(x, TASKS + tasks).detach(), copy.deepcopy(start)
    optimizer = optimiser(student, rate)
    schedule = decayed(optimizer, FEW_STEPS)
    for _ in range(FEW_STEPS):
        loss = (student(x, tasks) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return error(student, teacher, base, TASKS, NEW_TASKS)


def alignment(student: Perceptron, teacher: Perceptron) -> float:
    """Mean cosine between the gradients that two tasks have for A and B of all modules."""
    generator, gradients = torch.Generator().manual_seed(7), []
    learns = [parameter for name, parameter in trainable(student).items() if "routing" not in name]
    for task in range(TASKS):
        x, tasks = torch.randn(64, WIDTHS[0], generator=generator), torch.full((64,), task)
        loss = (student(x, tasks) - teacher(x, tasks)).square().mean()
        gradients.append(torch.cat([one.flatten() for one in torch.autograd.grad(loss, learns)]))
    unit = functional.normalize(torch.stack(gradients), dim=1)
    return float(((unit @ unit.T).sum() - TASKS) / (TASKS * (TASKS - 1)))


def networks(seed: int) -> tuple[Perceptron, Perceptron]:
    """The frozen network of a seed, and the one that its tasks come from."""
    torch.set_num_threads(1)
    base = Perceptron(torch.Generator().manual_seed(seed)).requires_grad_(False)
    return base, truth(base, torch.Generator().manual_seed(100 + seed))


def tried(seed: int) -> dict[int, dict[str, dict[float, float]]]:
    """The few-shot errors of one seed by rank, arm and rate."""
    base, teacher = networks(seed)
    found = {}
    for rank in RANKS:
        arms, _ = on_tasks(base, teacher, rank, seed)
        found[rank] = {
            name: {rate: few_shot(start, teacher, base, seed, rate) for rate in FEW_RATES}
            for name, start in starts(base, arms, rank, seed).items()
        }
        print(f"seed {seed}, rank {rank}: {found[rank]}", file=sys.stderr, flush=True)
    return found


def picked(of_seeds: Sequence[dict[int, dict[str, dict[float, float]]]]) -> dict[int, dict[str, float]]:
    """The rate of the least mean error by rank and arm."""
    return {
        rank: {
            name: min(FEW_RATES, key=lambda rate: fmean(errors[rank][name][rate] for errors in of_seeds))
            for name in of_seeds[0][rank]
        }
        for rank in RANKS
    }


def run(seed: int, rates: Mapping[int, Mapping[str, float]]) -> dict[int, dict[str, Figures]]:
    """The figures of all arms by rank, at picked rates."""
    base, teacher = networks(seed)
    tables = {}
    for rank in RANKS:
        arms, tables[rank] = on_tasks(base, teacher, rank, seed)
        begun = starts(base, arms, rank, seed)
        of_one = learned(begun[SCRATCH])
        for name, start in begun.items():
            rate = rates[rank][name]
            tables[rank][name] = {
                "error, 16 shots": few_shot(start, teacher, base, seed, rate),
                "rate": rate,
                "trained a task": learned(start) / NEW_TASKS,
                "share, %": 100 * learned(start) / of_one,
            }
        print(f"seed {seed}, rank {rank}: {told(tables[rank])}", file=sys.stderr, flush=True)
    return tables


def on_tasks(
    base: Perceptron, teacher: Perceptron, rank: int, seed: int
) -> tuple[dict[str, Perceptron], dict[str, Figures]]:
    """Trains every arm on the tasks, and measures it there."""

    def fresh(tasks: int, modules: int, heads: int, of: int) -> Perceptron:
        return base.adapted(tasks, modules, heads, of, torch.Generator().manual_seed(200 + seed))

    arms = {
        SHARED: fresh(1, 1, 1, min(MODULES * rank, *WIDTHS)),
        OWN: fresh(TASKS, TASKS, 1, max(1, round(MODULES * rank / TASKS))).alone(),
        POLY: fresh(TASKS, MODULES, 1, rank),
        MHR: fresh(TASKS, MODULES, HEADS, rank),
    }
    rows: dict[str, Figures] = {}
    for name, student in arms.items():
        aligned = pretrain(student, teacher, seed)
        rows[name] = {
            "parameters": learned(student),
            "error, tasks": error(student, teacher, base, 0, TASKS),
            "alignment": aligned,
        }
    return arms, rows


def starts(base: Perceptron, arms: Mapping[str, Perceptron], rank: int, seed: int) -> dict[str, Perceptron]:
    """What the new tasks begin with, by arm."""

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(300 + seed)

    generator = torch.Generator().manual_seed(200 + seed)
    found = {SCRATCH: base.adapted(NEW_TASKS, NEW_TASKS, 1, rank, generator).alone()}
    for name in (POLY, MHR):
        found[f"{name}-z"] = frozen(on_new_tasks(arms[name], NEW_TASKS, drawn()), ("A_", "B_"))
        found[f"{name}-mu"] = with_mean_modules(arms[name], NEW_TASKS, drawn())
    found[f"{MHR}, all, new tasks together"] = on_new_tasks(arms[MHR], NEW_TASKS, drawn())
    return found


def told(rows: Mapping[str, Figures]) -> str:
    """Figures of one seed in a line."""
    return "; ".join(
        f"{arm} {', '.join(f'{name} {one:.3g}' for name, one in row.items())}" for arm, row in rows.items()
    )


def learned(network: nn.Module) -> int:
    """Numbers that learn."""
    return sum(parameter.numel() for parameter in trainable(network).values())


def bars(tables: Mapping[int, Mapping[str, Mapping[str, list[float]]]]) -> list[Bar]:
    """What has to be shown, at every rank that holds the modules."""
    found = []
    for rank in (rank for rank in RANKS if rank >= LATENT_RANK):

        def ratio(one: str, other: str, figure: str, rows: Mapping[str, Mapping[str, list[float]]]) -> float:
            return max(a / b for a, b in zip(rows[one][figure], rows[other][figure], strict=True))

        rows = tables[rank]
        for one, other, figure, limit in (
            (MHR, POLY, "error, tasks", 0.5),
            (POLY, SHARED, "error, tasks", 1.0),
            (f"{MHR}-z", SCRATCH, "error, 16 shots", 1.0),
            (f"{MHR}-mu", SCRATCH, "error, 16 shots", 1.0),
        ):
            name = f"rank {rank}, {figure}: {one} over {other}, worst seed"
            found.append(Bar(name, ratio(one, other, figure, rows), limit))
        if rank >= 4:
            found.append(
                Bar(f"rank {rank}: parameters of MHR-z, % of a new adapter", rows["MHR-z"]["share, %"][0], 5.0)
            )
    return found


def main() -> int:
    """Trains, measures and prints.

    Returns:
        0 if every bar is met, otherwise 1.
    """
    options = by_seed.parse_apart(by_seed.picking_parser(__doc__))
    rates = picked(by_seed.for_seeds(options, tried, options.pick_seeds))
    of_seeds = by_seed.for_seeds(options, partial(run, rates=rates))
    tables = {
        rank: {
            arm: {figure: [tables[rank][arm][figure] for tables in of_seeds] for figure in figures}
            for arm, figures in of_seeds[0][rank].items()
        }
        for rank in RANKS
    }
    print("The generator is made for multi-head routing: the figures tell capacity, not what natural tasks gain by it.")
    for rank in RANKS[:-1]:
        show(f"rank {rank}", tables[rank], [])
    return show(f"rank {RANKS[-1]}", tables[RANKS[-1]], bars(tables))


if __name__ == "__main__":
    raise SystemExit(main())
