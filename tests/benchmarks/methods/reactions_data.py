"""Makes the reactions that ship with the trainer: an adatom on clusters of an fcc(100) surface, by EMT and NEB of ASE.

Run as `python -m tests.benchmarks.methods.reactions_data hops 165 OUT.npz`, or with `passes`; ASE is in the extra
`science`. In `hops` the adatom goes from a hollow to the next, and the two atoms of the bridge are free with it. In
`passes` a fixed atom stands on the bridge, so that the adatom passes it on one of two ways that are mirror images of
each other; it alone is free.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms  # pyright: ignore[reportMissingImports]
from ase.build import fcc100  # pyright: ignore[reportMissingImports]
from ase.calculators.emt import EMT  # pyright: ignore[reportMissingImports]
from ase.constraints import FixAtoms  # pyright: ignore[reportMissingImports]
from ase.mep import NEB  # pyright: ignore[reportMissingImports]
from ase.optimize import FIRE  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

ELEMENTS = (29, 47, 46)
"""Cu, Ag, Pd."""
LATTICE = 3.9
"""In angstrom, of all clusters."""
BLOCKER_HEIGHT = 1.6
"""Of the atom that is passed, in angstrom above the bridge."""
SIDE_STEP = 2.2
"""Of the first images of a pass, in angstrom to a side."""


def reaction(family: str, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.bool_]] | None:
    """Positions [3, N, 3] of reactant, transition state and product, species [N] and free [N]; None: not converged."""
    rng = np.random.default_rng([seed, len(family)])
    first, bridge, free = _cluster(family, rng)
    last = first.copy()
    spacing = LATTICE / np.sqrt(2)
    adatom = int(free[0])
    last.positions[adatom, 0] += spacing
    fixed = FixAtoms([atom for atom in range(len(first)) if atom not in free])
    for end in (first, last):
        end.set_constraint(fixed)
        end.calc = EMT()
        if not FIRE(end, logfile=None).run(fmax=0.05, steps=200):
            return None
    if family == "passes":  # the ends lie in the mirror plane, where only rounding would move them off it
        first.positions[adatom, 1] = last.positions[adatom, 1] = bridge[1]
    hop = last.positions[adatom, 0] - first.positions[adatom, 0]
    if not 0.6 * spacing < hop < 2 * spacing:
        return None
    images = [first, *(first.copy() for _ in range(3)), last]
    for image in images[1:-1]:
        image.calc = EMT()
    band = NEB(images, climb=True, method="improvedtangent")
    band.interpolate()
    if family == "passes":
        side = rng.choice((-1, 1))
        for image, bend in zip(images[1:-1], (0.7, 1, 0.7), strict=True):
            image.positions[adatom] += [0, side * SIDE_STEP * bend, 0]
    if not FIRE(band, logfile=None).run(fmax=0.05, steps=150 if family == "hops" else 400):
        return None
    energies = [image.get_potential_energy() for image in images]
    highest = int(np.argmax(energies))
    if highest in (0, len(images) - 1) or len(images[highest]) != len(first):
        return None
    if family == "passes" and abs(images[highest].positions[adatom, 1] - bridge[1]) < 0.5:
        return None
    positions = np.stack([first.positions, images[highest].positions, last.positions])
    is_free = np.isin(np.arange(len(first)), free)
    return positions.astype(np.float32), first.numbers.astype(np.uint8), is_free


def _cluster(family: str, rng: np.random.Generator) -> tuple[Atoms, NDArray[np.float64], NDArray[np.int64]]:
    """A cluster with its adatom in the hollow before the bridge, the middle of the bridge, and the free atoms."""
    cluster = fcc100("Cu", (4, 2, 2), a=LATTICE, vacuum=6.0)
    cluster.pbc = False
    spacing = LATTICE / np.sqrt(2)
    top = cluster.positions[:, 2].max()
    upper = np.flatnonzero(cluster.positions[:, 2] > top - 0.1)
    columns = np.unique(cluster.positions[upper, 0].round(3))
    on_bridge = upper[np.abs(cluster.positions[upper, 0] - columns[1]) < 0.1]
    bridge = cluster.positions[on_bridge].mean(axis=0)
    middle = bridge[1]
    species = rng.choice(ELEMENTS, len(cluster))
    if family == "passes":  # mirror images are of the same species
        for atom, position in enumerate(cluster.positions):
            image = position * [1, -1, 1] + [0, 2 * middle, 0]
            species[np.linalg.norm(cluster.positions - image, axis=1).argmin()] = species[atom]
        cluster += Atoms(numbers=[rng.choice(ELEMENTS)], positions=[bridge + np.array([0, 0, BLOCKER_HEIGHT])])
        species = np.append(species, cluster.numbers[-1])
    cluster += Atoms(numbers=[rng.choice(ELEMENTS)], positions=[bridge + np.array([-spacing / 2, 0, 1.7])])
    cluster.numbers = np.append(species, cluster.numbers[-1])
    free = [len(cluster) - 1, *(on_bridge if family == "hops" else ())]
    return cluster, bridge, np.array(free)


def make(family: str, num: int, file: Path) -> None:
    found = [one for seed in range(num) if (one := reaction(family, seed)) is not None]
    positions, numbers, free = (np.stack(parts) for parts in zip(*found, strict=True))
    center = positions[:, :1].mean(axis=2, keepdims=True)
    np.savez_compressed(file, positions=(positions - center).round(4), numbers=numbers, free=free)
    print(f"{family}: {len(found)} of {num} converged, {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=("hops", "passes"))
    parser.add_argument("num", type=int)
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    make(arguments.family, arguments.num, arguments.file)
