"""Shares of sources by pilots: python -m tests.benchmarks.methods.projektor [--run FOLDER]

Three sources: classes 0 to 4, classes 5 to 9, and all classes with 40 % of the labels wrong. 21 mixes, N = 100 and 200
projected to 800. What is measured is the accuracy of logistic regression on held-out images, of digits (64 pixels) and
of Fashion-MNIST (its 14 x 14 means, where the files are there). Two splits of the mixes: those with less than two
fifths of the second source predict the others, and a random half predicts the other. "quadratic" is the rival: shares
and their products without a distance, in the same logarithm and with the same choice of the penalty.

--run trains: pilots by the verb (seed 10, six mixes), then the pick, equal shares and no noisy source, seeds 0, 1, 2,
at equal steps and examples; figures are class accuracies of samples.

Source: "Performance scaling via optimal transport", arXiv 2307.02460.
"""

import argparse
import gzip
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import yaml

from tests.benchmarks.methods.bars import Bar, show
from trainer.__main__ import main as trainer
from trainer.data import Examples, write_shards
from trainer.data.mixture import MixtureFile
from trainer.data.protocol import shuffled_splits
from trainer.experiment.mixture.fit import FEATURES, Mix, Projection, Values, amplification, fitted, permitted, simplex
from trainer.experiment.mixture.pilots import Judge, Points, figure, logarithm, mixed, transport_distance
from trainer.experiment.mixture.plan import prepare
from trainer.experiment.request.verbs import MixtureRequest

FASHION = Path("/usr/share/datasets/fashion-mnist")
SIZES, TARGET, HELD_OUT = (100, 200), 800, 180
WRONG = 0.4
SPLITS = ("second source from two fifths", "random half")
MODELS = ("distance", "chosen", "quadratic")


def images(name: str) -> tuple[Values, np.ndarray]:
    """Examples [N, F] in [-1, 1] and their classes."""
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        return np.asarray(x) / 8 - 1, np.asarray(y)
    pixels, labels = (
        np.frombuffer(gzip.decompress((FASHION / f"train-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    return pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)[:6000] / 127.5 - 1, labels[:6000].astype(int)


def with_wrong_labels(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels, some of which are another class."""
    wrong = rng.random(len(y)) < WRONG
    return np.where(wrong, (y + rng.integers(1, 10, len(y))) % 10, y)


def parted(x: Values, y: np.ndarray, held_out: int, seed: int) -> dict[str, tuple[Values, np.ndarray]]:
    """The three sources, and held-out examples of every class alike."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    x, y = x[order], y[order]
    held = np.concatenate([np.flatnonzero(y == label)[: held_out // 10] for label in range(10)])
    rest = np.setdiff1d(np.arange(len(y)), held)
    other = rng.permutation(rest)
    low, high = (rest[(y[rest] < 5) == first] for first in (True, False))
    noisy = (x[other], with_wrong_labels(y[other], rng))
    return {"low": (x[low], y[low]), "high": (x[high], y[high]), "noisy": noisy, "held_out": (x[held], y[held])}


def accuracy(train: Points, held_out: Points) -> float:
    """Share of held-out examples that logistic regression on others gets right."""
    from sklearn.linear_model import LogisticRegression

    assert train.labels is not None
    assert held_out.labels is not None
    classifier = LogisticRegression(C=0.1, max_iter=200).fit(train.features.numpy(), train.labels.numpy())
    return float(classifier.score(held_out.features.numpy(), held_out.labels.numpy()))


def surveyed(name: str, seed: int) -> tuple[list[Mix], Values, Values, list[Points], Points]:
    """Mixes, accuracies [3, P] and distances [2, P], the sources and what is wanted."""
    parts = parted(*images(name), HELD_OUT, seed)
    *sources, wanted = (Points(torch.from_numpy(x), torch.from_numpy(y)) for x, y in parts.values())
    mixes = simplex(5, 3)
    accuracies = [[accuracy(mixed(sources, mix, size), wanted) for mix in mixes] for size in (*SIZES, TARGET)]
    distances = [[transport_distance(mixed(sources, mix, size), wanted) for mix in mixes] for size in SIZES]
    return mixes, np.array(accuracies), np.array(distances), sources, wanted


def projected(model: str, shares: Values, distances: Values, accuracies: Values, seen: np.ndarray) -> Projection:
    """The fit of a model to the mixes that are seen; chosen: of those that so many mixes determine."""
    values = logarithm("class_accuracy", accuracies[:2, seen], HELD_OUT)
    ours = [name for name in permitted(int(seen.sum()), shares.shape[1]) if name != "quadratic"]
    candidates = ours if model == "chosen" else [model]
    fits = [fitted(name, shares[seen], distances[:, seen], values, SIZES) for name in candidates]
    return min(fits, key=lambda one: one.error)


def table(seeds: Sequence[int]) -> int:
    """Errors of the projections and of the picks."""
    FEATURES["quadratic"] = lambda shares, _: [*shares, *shares**2, shares[0] * shares[1]]
    sets = ["digits", *(["Fashion-MNIST"] if FASHION.exists() else [])]
    rows: dict[str, dict[str, list[float]]] = {}
    for name in sets:
        for seed in seeds:
            mixes, accuracies, distances, *_ = surveyed(name, seed)
            shares, best = np.array(mixes), accuracies[2].max()
            half = np.random.default_rng(seed).permutation(len(mixes)) < (len(mixes) + 1) // 2
            for split, seen in zip(SPLITS, (shares[:, 1] < 0.39, half), strict=True):
                for model in MODELS:
                    fit = projected(model, shares, distances, accuracies, seen)
                    found = figure("class_accuracy", fit.at(shares, distances, TARGET))
                    of_model = rows.setdefault(f"{name}, {split}: {model}", {})
                    error = float(np.abs(found - accuracies[2])[~seen].mean())
                    of_model.setdefault("error", []).append(error)
                    of_model.setdefault("behind the best", []).append(float(best - accuracies[2][found.argmax()]))
            whole = projected("chosen", shares, distances, accuracies, np.ones(len(mixes), bool))
            found = figure("class_accuracy", whole.at(shares, distances, TARGET))
            of_all = rows.setdefault(f"{name}, all mixes: chosen", {})
            of_all.setdefault("behind the best", []).append(float(best - accuracies[2][found.argmax()]))
            equal = int(np.abs(shares - 1 / 3).max(1).argmin())
            of_equal = rows.setdefault(f"{name}: nearest to equal shares", {})
            of_equal.setdefault("behind the best", []).append(float(best - accuracies[2][equal]))
    bars = [Bar("amplification", amplification(SIZES, TARGET), 10.0)]
    for name in sets:
        ours, rival = (fmean(rows[f"{name}, {SPLITS[0]}: {model}"]["error"]) for model in ("chosen", "quadratic"))
        bars.append(Bar(f"{name}: error on mixes of the second source", ours, 0.1))
        bars.append(Bar(f"{name}: the same by that of the quadratic", ours / rival, 0.6))
        behind = fmean(rows[f"{name}, all mixes: chosen"]["behind the best"])
        bars.append(Bar(f"{name}: pick behind the best of the grid", behind, 0.01))
    return show("logistic regression, N 100 and 200 projected to 800", rows, bars)


RUN: dict[str, Any] = {
    "model": {"kind": "mlp", "hidden": 256, "num_layers": 3, "label_dropout": 0.0},
    "optim": {"steps": 600, "global_batch": 64, "lr": 4e-3, "warmup_steps": 40, "ema_decay": 0.9},
    "checkpoint": {"every": 600, "keep": 1},
    "evaluate": {"every": None},
    "sample": {"guidance": 1.0, "sampler": {"kind": "euler", "steps": 20}},
}
RUN_SIZES, RUN_TARGET, RUN_HELD_OUT = (150, 300), 700, 360


def written(folder: Path) -> Path:
    """A configuration of a perceptron on the three sources of digits, and clean ones that are not mixed."""
    x, y = images("digits")
    parts = parted(x, y, RUN_HELD_OUT, seed=0)
    rest = [np.concatenate(both) for both in zip(parts["low"], parts["high"], strict=True)]
    clean = [np.empty((len(a) + len(b), *a.shape[1:]), a.dtype) for a, b in zip(rest, parts["held_out"], strict=True)]
    splits = shuffled_splits(len(clean[1]), len(parts["held_out"][1]))
    for whole, train, held_out in zip(clean, rest, parts["held_out"], strict=True):
        whole[splits["train"]], whole[splits["held_out"]] = train, held_out
    sources = {}
    for name, (data, labels) in {**parts, "clean": clean}.items():
        if name != "held_out":
            examples = [Examples(data.astype(np.float32), labels.astype(np.int64))]
            if not (folder / name).exists():
                write_shards(folder / name, examples, num_classes=10)
            held_out = len(parts["held_out"][1]) if name == "clean" else 1
            sources[name] = {"kind": "shards", "path": str(folder / name), "held_out": held_out}
    shares = {"low": 0.4, "high": 0.3, "noisy": 0.3, "clean": 0.0}
    data = {"kind": "mixture", "sources": sources, "shares": shares}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"run": {"dir": str(folder / "run"), "seed": 10}, "data": data, **RUN}))
    return path


def trained(folder: Path, seeds: Sequence[int]) -> int:
    """Pilots, the pick, and what it is worth beside equal shares and beside the clean sources alone."""
    folder.mkdir(parents=True, exist_ok=True)
    config, out, page = written(folder), folder / "mixture.json", folder / "mixture.html"
    words = ["--sizes", ",".join(map(str, RUN_SIZES)), "--target", str(RUN_TARGET), "--measure", "class_accuracy"]
    words += ["--wanted", "clean", "--grid", "2", "--jobs", "2", "--num", "500", "--pilots", str(folder / "pilots")]
    if code := trainer(["mixture", str(config), *words, "--out", str(out), "--page", str(page)]):
        return code
    found = MixtureFile.read(out)
    figures = found.figures or {}
    third = {"low": 0.34, "high": 0.33, "noisy": 0.33, "clean": 0.0}
    mixes = {"pick": found.shares, "equal": third, "no noisy": {"low": 0.5, "high": 0.5, "noisy": 0.0, "clean": 0.0}}
    request = MixtureRequest(
        **{"config": config, "sizes": ",".join(map(str, RUN_SIZES)), "target": RUN_TARGET, "measure": "class_accuracy"},
        **{"wanted": "clean", "grid": 2, "seeds": 1, "ranks": 1, "jobs": 1, "num": 500, "pilots": folder / "pilots"},
        **{"features": None, "out": out, "page": None},
    )
    judge = Judge(request, prepare(request, RUN_SIZES))
    rows: dict[str, dict[str, list[float]]] = {}
    for name, shares in mixes.items():
        for seed in seeds:
            run = folder / "_".join(
                [*(f"{share:.2f}" for _, share in sorted(shares.items())), str(seed)]
            )  # equal mixes share it
            settings = [f"run.dir={run}", f"run.seed={seed}", f"data.size={RUN_TARGET}"]
            settings.append(f"data.shares={yaml.safe_dump(shares, default_flow_style=True).strip()}")
            subprocess.run([sys.executable, "-m", "trainer", "train", str(config), *settings], check=True)
            rows.setdefault(name, {}).setdefault("class accuracy", []).append(judge.measured(run, seed))
    pick, equal, clean = (rows[name]["class accuracy"] for name in mixes)
    print(f"pick {found.shares}, projected {figures['projected']:.3f}, one deviation {figures['one_deviation']}")
    print(f"steps of the pilots by those of a run: {figures['pilot_steps'] / figures['run_steps']:.2f}")
    ahead = min(one - other for one, other in zip(pick, equal, strict=True))
    behind = max(other - one for one, other in zip(pick, clean, strict=True))
    bars = [
        Bar("amplification", figures["amplification"], 10.0),
        Bar("pick ahead of equal shares, worst seed", ahead, 0.02, at_least=True),
        Bar("pick behind no noisy source, worst seed", behind, 0.01),
    ]
    return show("a perceptron on digits, 700 examples", rows, bars)


def main() -> int:
    """Prints one of the two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run", type=Path, default=None, help="folder of a real run of the trainer")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # of classifiers that are not trained to the end
    return table(options.seeds) if options.run is None else trained(options.run, options.seeds)


if __name__ == "__main__":
    raise SystemExit(main())
