"""Distances of drawn transition states from those of held-out reactions, and their energies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import COLOURS, DASHED, GREY, Dots, Line, Mark
from netsim.foundation.page import Facts, Figure, Section, Table
from trainer.config.sample import ReactionSample
from trainer.data.reactions import Reactions, laid_upon
from trainer.evaluation.readings import Reading
from trainer.sampling.draw import TrainedFlow
from trainer.sampling.preview import reactions_of

EMT_METALS = {13, 28, 29, 46, 47, 78, 79}
"""Atomic numbers that effective medium theory is fitted to."""
MOST_ENERGIES = 200
SHOWN, POINTS = 4, 9
"""Reactions whose energy profile is shown, and points of a profile."""

Positions = NDArray[np.floating]


@dataclass(frozen=True)
class Distances:
    """Means over reactions, in angstrom.

    Attributes:
        free: root mean square distance of the free atoms, in the frame of the ends.
        turned: of all atoms, when one structure is turned and shifted onto the other (Kabsch).
        mirrored: the same where it may be a mirror image too.
    """

    free: float
    turned: float
    mirrored: float


@dataclass(frozen=True, eq=False)
class ReactionReading:
    """Figures of transition states drawn by the run's own sampler, one for each held-out reaction.

    Attributes:
        drawn: their distances from the true ones.
        midpoint: the same of the middles of reactant and product.
        spread: root mean square deviation of the free atoms over two draws of a reaction, in angstrom.
        barriers: [M, 2] eV from the reactant to the true and to the drawn state; None: no potential is known.
        profiles: [K, 2, points] eV above the reactant on straight lines through the true and through the drawn state.
    """

    reactions: int
    drawn: Distances
    midpoint: Distances
    spread: float
    barriers: NDArray[np.float64] | None
    profiles: NDArray[np.float64] | None
    name: ClassVar[str] = "reactions"

    @property
    def barrier_error(self) -> float | None:
        """Mean absolute error of the barriers of drawn states, in eV."""
        return None if self.barriers is None else float(np.abs(np.diff(self.barriers)).mean())

    def to_dict(self) -> dict[str, Any]:
        return {
            "reactions": self.reactions,
            "drawn": asdict(self.drawn),
            "midpoint": asdict(self.midpoint),
            "spread": self.spread,
            "barrier_error": self.barrier_error,
        }

    def remarks(self) -> list[str]:
        line = (
            f"free atoms {self.drawn.free:.3f} angstrom from the true transition states (middle of the ends "
            f"{self.midpoint.free:.3f}); two draws differ by {self.spread:.3f}"
        )
        return [line if self.barrier_error is None else f"{line}; barriers off by {self.barrier_error:.3f} eV"]

    def section(self) -> Section:
        rows = [
            (name, *(f"{value:.4f}" for value in asdict(one).values()))
            for name, one in (("drawn", self.drawn), ("middle of the ends", self.midpoint))
        ]
        caption = (
            f"Root mean square distances in angstrom from the transition states of {self.reactions} held-out reactions."
        )
        columns = ("", "free atoms", "all, turned", "all, turned or mirrored")
        blocks: list[Any] = [Table(columns, rows, caption)]
        facts = [("Spread", f"{self.spread:.4f}", "angstrom between two draws of a reaction, free atoms")]
        if self.barriers is not None and self.profiles is not None and self.barrier_error is not None:
            facts.append(("Barriers", f"{self.barrier_error:.3f} eV", "mean absolute error (EMT)"))
            about = "Barriers by effective medium theory: a point for each reaction, on the line where they agree."
            blocks.append(Figure(parity(self.barriers), about, half=True))
            about = "Energy along straight lines by way of the true (dashed) and of the drawn transition state."
            blocks.append(Figure(profiles_chart(self.profiles), about, half=True))
        return Section("Transition states", [Facts(facts), *blocks])


def distances(states: Positions, true: Reactions) -> Distances:
    """Returns the mean distances of states [M, N, 3] from the transition states of reactions."""
    free, turned, mirrored = [], [], []
    for state, positions, numbers, moves in zip(states, true.positions, true.numbers, true.free, strict=True):
        present = numbers > 0
        truth = positions[1]
        free.append(rms(state[moves], truth[moves]))
        plain = rms(laid_upon(state[present], truth[present]), truth[present])
        turned.append(plain)
        mirrored.append(min(plain, rms(laid_upon(state[present], truth[present], mirror=True), truth[present])))
    return Distances(*(float(np.mean(ones)) for ones in (free, turned, mirrored)))


def rms(first: Positions, second: Positions) -> float:
    """Root mean square distance of points [N, 3]."""
    return float(np.sqrt(np.square(first - second).sum(-1).mean()))


@torch.no_grad()
def read_reactions(flow: TrainedFlow, *, num: int, seed: int, progress: Callable[[str], None]) -> list[Reading]:
    """Draws for the first `num` held-out reactions; empty if the run draws none."""
    config, sample = flow.config, flow.sample
    if not isinstance(sample, ReactionSample):
        return []
    conditioning = flow.conditioning(num, seed=seed)
    progress(f"drawing {len(conditioning.labels)} transition states, twice")
    condition, originals = conditioning.condition, conditioning.originals
    assert condition.context is not None
    assert originals is not None, "data of kind reactions have contexts"
    both = [flow.draw(condition, guidance=sample.guidance, seed=seed + again).cpu() for again in range(2)]
    first, second = (reactions_of(states, condition.context, config.species) for states in both)
    true = reactions_of(originals, condition.context, config.species)
    differences = [
        rms(one[1, free], other[1, free]) / np.sqrt(2)
        for one, other, free in zip(first.positions, second.positions, first.free, strict=True)
    ]
    barriers = profiles = None
    if set(config.species) <= EMT_METALS and find_spec("ase") is not None:
        progress("energies by effective medium theory")
        reactions = [(atoms, (real, drawn)) for (real, atoms, _), drawn in zip(true, first.positions, strict=True)]
        barriers = np.array(
            [[energy(atoms, at[1]) - energy(atoms, at[0]) for at in pair] for atoms, pair in reactions[:MOST_ENERGIES]]
        )
        profiles = np.array([[along(atoms, at) for at in pair] for atoms, pair in reactions[:SHOWN]])
    middles = true.positions[:, ::2].mean(1)
    return [
        ReactionReading(
            len(originals),
            distances(first.positions[:, 1], true),
            distances(middles, true),
            float(np.mean(differences)),
            barriers,
            profiles,
        )
    ]


def energy(numbers: NDArray[np.int64], positions: Positions) -> float:
    """Returns the energy of atoms in eV, by ASE's effective medium theory."""
    from ase import Atoms  # pyright: ignore[reportMissingImports]  the extra `science`
    from ase.calculators.emt import EMT  # pyright: ignore[reportMissingImports]

    present = numbers > 0
    atoms = Atoms(numbers=numbers[present], positions=positions[present])
    atoms.calc = EMT()
    return float(atoms.get_potential_energy())


def along(numbers: NDArray[np.int64], positions: Positions) -> list[float]:
    """Returns energies in eV above the reactant on straight lines through a transition state; positions [3, N, 3]."""
    shares = np.linspace(0, 1, POINTS // 2 + 1)[:, None, None]
    there, on = (begin + shares * (end - begin) for begin, end in pairwise(positions))
    energies = [energy(numbers, place) for place in (*there, *on[1:])]
    return [value - energies[0] for value in energies]


def parity(barriers: NDArray[np.float64]) -> str:
    """Draws the barriers of drawn states over the true barriers, [M, 2]."""
    ends = [float(barriers.min()), float(barriers.max())]
    marks = [Line(ends, ends, GREY, width=1.0), Dots(*barriers.T, size=18, alpha=0.8)]
    panel = Panel(marks, x="true barrier, eV", y="barrier of the drawn state, eV", grid="both")
    return chart([panel], size=(5.4, 3.7), name="barriers")


def profiles_chart(profiles: NDArray[np.float64]) -> str:
    """Draws the energies [K, 2, points] along the paths through true and drawn states."""
    places, marks = np.arange(profiles.shape[2]), list[Mark]()
    for (true, drawn), colour in zip(profiles, COLOURS, strict=False):
        marks += [Line(places, drawn, colour), Line(places, true, colour, dash=DASHED, width=1.0)]
    ticks = {0.0: "reactant", float(places[-1] // 2): "transition", float(places[-1]): "product"}
    panel = Panel(marks, y="energy above the reactant, eV", x_ticks=ticks)
    return chart([panel], size=(5.4, 3.7), name="ways")
