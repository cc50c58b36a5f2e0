"""Transition states between two ends, by flows and by their rivals: python -m tests.benchmarks.methods.ts_gen

Hops of an adatom on an alloy: 29 of the reactions that ship are held out, in another split for each seed. One network
of invariants and difference vectors learns flows from noise around the middle of the ends (the end point or the
velocity is predicted), from the paper's normal noise at the origin, and plain regression: the state is the middle, the
time 0. "rmsd" is that of the free atoms in the frame of the ends, in angstrom; the rivals without a network are the
middle itself and the middle with the mean shift of the training reactions. "spread" is the deviation over six draws of
a reaction, "R <-> P" the root mean square difference when the ends change places. In the family `passes` (`--passes
FILE`, made by tests.benchmarks.methods.reactions_data) each reaction has two mirror saddles: "left" is the share of
draws on one side, "to the nearer" the mean distance to the nearer saddle. Where ASE is installed, "barrier" is the mean
absolute error in eV, "above" the mean energy in eV over the true saddle, "force" the mean largest force in eV /
angstrom on a free atom, and "one mode" the share of drawn states with exactly one negative mode among free atoms.

Source: TS-GEN; arXiv 2102.09844 for the network.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.by_seed import seeds_parser
from tests.benchmarks.methods.plain_loop import flow_task, follow, train
from trainer.config.rules.plan import plan_layout
from trainer.data import Batch, build
from trainer.data.reactions import swapped
from trainer.evaluation.reaction_reading import energy
from trainer.flow import Condition
from trainer.flow.coupling import Pairs
from trainer.model.build import build_model
from trainer.sampling.preview import reactions_of
from trainer.task import FlowTask
from trainer.task.flow import DrawnPoints

STEPS, BATCH, LR, HELD_OUT, DRAWS, EULER = 800, 32, 2e-3, 29, 6, 20
NEAR = {"begin": "midpoint", "deviation": 0.5}
FLOWS: dict[str, dict[str, Any]] = {
    "flow": {"coupling": {"kind": "ends", **NEAR}, "target": {"kind": "data"}},
    "flow, velocity": {"coupling": {"kind": "ends", **NEAR}},
    "flow, normal source": {
        "coupling": {"kind": "ends", "begin": "noise", "deviation": 1.0},
        "target": {"kind": "data"},
    },
}
SPREAD = {
    "coupling": {"kind": "ends", **NEAR},
    "objective": {"kind": "regression", "spread": {"draws": 5, "weight": 1.0}},
}
HAS_ENERGIES = find_spec("ase") is not None


class Regression(FlowTask):
    """The same network at the middle of the ends and time 0."""

    def draw(self, batches: Sequence[Batch], *_: Any, **__: Any) -> list[DrawnPoints]:
        found = []
        for batch in batches:
            assert batch.context is not None
            condition, t = Condition(context=batch.context), torch.zeros(len(batch.x_1))
            sample = self.parts.path.sample(Pairs(middle(batch.context), batch.x_1), t, generator=torch.Generator())
            found.append(DrawnPoints(None, sample, condition))
        return found


def middle(context: Tensor) -> Tensor:
    return (context[:, :3] + context[:, 3:6]) / 2


def task_of(flow: dict[str, Any], path: Path | None, seed: int) -> FlowTask:
    return flow_task(
        flow,
        model={"kind": "equivariant", "hidden": 32, "num_layers": 2, "bells": 8},
        data={"kind": "reactions", "path": path, "held_out": HELD_OUT if path is None else 12, "split": seed},
        run={"dir": "unused", "seed": seed},
    )


def learned(task: FlowTask, seed: int, steps: int) -> nn.Module:
    data = build(task.config.data)
    ids = data.indices("train")

    def some(num: int, generator: torch.Generator) -> Batch:
        batch = data.get(ids[torch.randint(len(ids), (num,), generator=generator)])
        positions = torch.randint(2**62, (num,), generator=generator)
        return data.augmented(batch, positions, seed=seed)

    network = build_model(task.config, plan_layout(task.config, 1))
    return train(task, some, network, steps=steps, batch=BATCH, lr=LR, seed=seed, ema=0.99, clip_norm=1.0)


def held_out(task: FlowTask) -> Batch:
    data = build(task.config.data)
    return data.get(data.indices("held_out"))


@torch.no_grad()
def drawn(task: FlowTask, network: nn.Module, context: Tensor, draws: int) -> Tensor:
    """States [draws, M, 3, 1, N]; of a regression all are the same."""
    condition = Condition(context=context)
    if isinstance(task, Regression):
        return network(middle(context), torch.zeros(len(context)), condition)[None].expand(draws, -1, -1, -1, -1)
    each = []
    for number in range(draws):
        begun = task.parts.starts(condition, torch.arange(len(context)) + number * len(context), seed=0)
        each.append(follow(task, network, begun, EULER, condition=condition).final)
    return torch.stack(each)


def rmsd(states: Tensor, true: Tensor, context: Tensor) -> Tensor:
    """Of the free atoms, [..., M]."""
    free = context[:, -1, 0]
    squares = (states - true).square().sum(-3)[..., 0, :]
    return ((squares * free).sum(-1) / free.sum(-1)).sqrt()


def physics(task: FlowTask, states: Tensor, batch: Batch) -> dict[str, float]:
    """Barriers, forces and modes of states [M, 3, 1, N]; empty without ASE."""
    if not HAS_ENERGIES:
        return {}
    from ase import Atoms  # pyright: ignore[reportMissingImports]  the extra `science`
    from ase.calculators.emt import EMT  # pyright: ignore[reportMissingImports]

    assert batch.context is not None
    found, true = (reactions_of(one, batch.context, task.config.species) for one in (states, batch.x_1))
    errors, above, forces, single = [], [], [], []
    for numbers, positions, truth, free in zip(found.numbers, found.positions, true.positions, found.free, strict=True):
        above.append(energy(numbers, positions[1]) - energy(numbers, truth[1]))
        errors.append(abs(above[-1]))
        atoms = Atoms(numbers=numbers, positions=positions[1].astype(np.float64), calculator=EMT())
        forces.append(np.linalg.norm(atoms.get_forces()[free], axis=1).max())
        rows = []
        for atom in np.flatnonzero(free):
            for axis in range(3):
                sides = []
                for step in (0.01, -0.01):
                    moved = atoms.copy()
                    moved.calc = EMT()
                    moved.positions[atom, axis] += step
                    sides.append(moved.get_forces()[free].ravel())
                rows.append((sides[1] - sides[0]) / 0.02)
        hessian = np.array(rows)
        single.append((np.linalg.eigvalsh((hessian + hessian.T) / 2) < -0.05).sum() == 1)
    return {
        "barrier": float(np.mean(errors)),
        "above": float(np.mean(above)),
        "force": float(np.mean(forces)),
        "one mode": float(np.mean(single)),
    }


def judged(task: FlowTask, network: nn.Module) -> dict[str, float]:
    batch = held_out(task)
    assert batch.context is not None
    states = drawn(task, network, batch.context, DRAWS)
    backwards = drawn(task, network, swapped(batch.context), 1)[0]
    free = batch.context[:, -1:, 0]
    deviation = states.var(0, correction=1).sum(1)[:, 0] if len(states) > 1 else torch.zeros(1)
    return {
        "rmsd": float(rmsd(states, batch.x_1, batch.context).mean()),
        "median": float(rmsd(states, batch.x_1, batch.context).median()),
        "spread": float(((deviation * free[:, 0]).sum(1) / free[:, 0].sum(1) / 3).sqrt().mean()),
        "R <-> P": float(rmsd(states[0], backwards, batch.context).mean()),
        **physics(task, states[0], batch),
    }


def without_network(task: FlowTask) -> dict[str, dict[str, float]]:
    data, batch = build(task.config.data), held_out(task)
    train_batch = data.get(data.indices("train"))
    assert batch.context is not None
    assert train_batch.context is not None
    shift = (train_batch.x_1 - middle(train_batch.context)).mean(0)
    rows = {"middle of the ends": middle(batch.context), "middle + mean shift": middle(batch.context) + shift}
    return {
        name: {
            "rmsd": float(rmsd(states, batch.x_1, batch.context).mean()),
            "median": float(rmsd(states, batch.x_1, batch.context).median()),
            **physics(task, states, batch),
        }
        for name, states in rows.items()
    }


@torch.no_grad()
def equivariance(task: FlowTask, network: nn.Module, seed: int) -> float:
    """The largest difference, relative to the largest value, under a rotation with a reflection and a shift."""
    batch = held_out(task)
    assert batch.context is not None
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    turn = turn * -torch.det(turn).sign()
    shift = torch.randn(1, 3, 1, 1, generator=generator)

    def turned(points: Tensor) -> Tensor:
        return torch.einsum("ij,bjkn->bikn", turn, points)

    moved = torch.cat(
        [*(turned(batch.context[:, first : first + 3]) + shift for first in (0, 3)), batch.context[:, 6:]], dim=1
    )
    x, t = batch.x_1 + 0.3 * torch.randn(batch.x_1.shape, generator=generator), torch.full((len(batch.x_1),), 0.4)
    first = turned(network(x, t, Condition(context=batch.context)) - middle(batch.context))
    second = network(turned(x) + shift, t, Condition(context=moved)) - middle(moved)
    return float((first - second).abs().max() / first.abs().max())


def hops(seeds: Sequence[int], steps: int) -> int:
    table: dict[str, dict[str, list[float]]] = {}
    turned = []

    def add(name: str, figures: dict[str, float]) -> None:
        for figure, value in figures.items():
            table.setdefault(name, {}).setdefault(figure, []).append(value)

    for seed in seeds:
        for name, figures in without_network(task_of(FLOWS["flow"], None, seed)).items():
            add(name, figures)
        regression = Regression(task_of(FLOWS["flow"], None, seed).config)
        arms = {"regression": regression, **{name: task_of(flow, None, seed) for name, flow in FLOWS.items()}}
        for name, task in arms.items():
            network = learned(task, seed, steps)
            add(name, judged(task, network))
            if name == "flow":
                turned.append(equivariance(task, network, seed))
            print(f"seed {seed}: {name} {table[name]['rmsd'][-1]:.4f}", flush=True)
    flow, mid, shift = (fmean(table[name]["rmsd"]) for name in ("flow", "middle of the ends", "middle + mean shift"))
    bars = [
        Bar("flow: rmsd over that of the middle", flow / mid, 0.45),
        Bar("flow: rmsd over that of the mean shift", flow / shift, 0.95),
        Bar("flow: spread", fmean(table["flow"]["spread"]), 0.01),
        Bar("turned, mirrored and shifted: relative difference", max(turned), 5e-6),
    ]
    return show(f"hops, {steps} steps of {BATCH}", table, bars)


@torch.no_grad()
def of_two(task: FlowTask, network: nn.Module, draws: int = 20) -> dict[str, float]:
    """Figures of the family with two saddles; the mirror plane holds the ends, and the atom that is passed."""
    batch = held_out(task)
    assert batch.context is not None
    states = drawn(task, network, batch.context, draws)
    free = batch.context[:, -1, 0].argmax(-1)
    rows = torch.arange(len(free))
    plane = batch.context[rows, 1, 0, free]  # y of the reactant's adatom
    mirrored = batch.x_1.clone()
    mirrored[rows, 1, 0, free] = 2 * plane - mirrored[rows, 1, 0, free]
    both = torch.stack([rmsd(states, true, batch.context) for true in (batch.x_1, mirrored)])
    sides = (states[:, rows, 1, 0, free] > plane).float().mean(0)
    figures = {
        "left": float(sides.mean()),
        "fewest": float(torch.minimum(sides, 1 - sides).mean()),
        "to the nearer": float(both.amin(0).mean()),
    }
    found = physics(task, states[0], batch)
    return {**figures, **{name: found[name] for name in ("above", "force", "one mode") if name in found}}


def passes(path: Path, seeds: Sequence[int], steps: int) -> int:
    table: dict[str, dict[str, list[float]]] = {}
    arms = {"flow": FLOWS["flow"], "flow, velocity": FLOWS["flow, velocity"], "flow, velocity, spread term": SPREAD}
    for seed in seeds:
        tasks: dict[str, FlowTask] = {"regression": Regression(task_of(FLOWS["flow"], path, seed).config)}
        tasks |= {name: task_of(flow, path, seed) for name, flow in arms.items()}
        for name, task in tasks.items():
            for figure, value in of_two(task, learned(task, seed, steps)).items():
                table.setdefault(name, {}).setdefault(figure, []).append(value)
            print(f"seed {seed}: {name} {table[name]['to the nearer'][-1]:.4f}", flush=True)
    left = table["flow"]["left"]
    bars = [
        Bar("flow: least share on the left", min(left), 0.35, at_least=True),
        Bar("flow: largest share on the left", max(left), 0.65),
    ]
    if HAS_ENERGIES:
        above = fmean(table["regression"]["above"]) - max(fmean(table["flow"]["above"]), 0.0)
        bars.append(Bar("regression: energy above that of the flow, eV", above, 0.0, at_least=True))
    return show(f"passes, {steps} steps of {BATCH}", table, bars)


def main() -> int:
    """Trains, measures and prints; 0 if every bar is met, otherwise 1."""
    parser = seeds_parser(__doc__)
    parser.add_argument("--passes", type=Path, help="a file of that family, made by reactions_data, in place of hops")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.passes is not None:
        return passes(arguments.passes, arguments.seeds, arguments.steps)
    return hops(arguments.seeds, arguments.steps)


if __name__ == "__main__":
    raise SystemExit(main())
