"""How well clusters are the classes, beside k-means: figures, a table and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure as Drawing
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.table import Table as TerminalTable
from torch import Tensor

from moe.report.figures import INK, STYLE, to_svg
from netsim.foundation.page import Facts, Figure, Section, Table, page
from trainer.observe.measurement import Measurement

NEIGHBOURS = 20
STARTS = 10
"""Of k-means, of which the best counts."""
FOUND, TRUE = "#0072b2", "#5b6875"
OWN = "own clusters"
HEADINGS = ("accuracy", "balanced", "NMI", "clusters in use")


@dataclass(frozen=True, eq=False)
class Judged:
    """Clusters beside classes, each class named by the cluster that is best for all together.

    Attributes:
        accuracy: share of examples in the cluster of their class (Hungarian).
        balanced: mean of that over the classes.
        information: mutual information over the mean of both entropies (NMI).
        confusion: int64 [classes, clusters], the cluster of class c in column c, empty where there are too few.
    """

    accuracy: float
    balanced: float
    information: float
    confusion: NDArray[np.int64]

    @classmethod
    def of(cls, clusters: NDArray[np.int64], classes: NDArray[np.int64], num_clusters: int, num_classes: int) -> Judged:
        from scipy.optimize import linear_sum_assignment  # a third of a second to import

        confusion = np.zeros((num_classes, max(num_clusters, num_classes)), np.int64)
        np.add.at(confusion, (classes, clusters), 1)
        _, matched = linear_sum_assignment(-confusion)
        others = np.setdiff1d(np.arange(confusion.shape[1]), matched)
        confusion = confusion[:, [*matched, *others]]
        right, sizes = confusion.diagonal(), confusion.sum(1)
        return cls(
            float(right.sum() / len(clusters)),
            float((right / sizes.clip(1))[sizes > 0].mean()),
            _normalised_information(confusion / len(clusters)),
            confusion,
        )

    @property
    def sizes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Examples of each class, and of each cluster in the order of `confusion`."""
        return self.confusion.sum(1), self.confusion.sum(0)

    def row(self) -> tuple[str, ...]:
        """The cells of a table, under `HEADINGS`."""
        used = int((self.sizes[1] > 0).sum())
        return f"{self.accuracy:.3f}", f"{self.balanced:.3f}", f"{self.information:.3f}", str(used)


def _normalised_information(joint: NDArray[np.float64]) -> float:
    rows, columns = joint.sum(1), joint.sum(0)
    entropies = [-(one[one > 0] * np.log(one[one > 0])).sum() for one in (rows, columns, joint)]
    mean = (entropies[0] + entropies[1]) / 2
    return float((entropies[0] + entropies[1] - entropies[2]) / mean) if mean > 0 else 1.0


def purity(features: Tensor, classes: Tensor) -> float:
    """Share of the nearest neighbours, by the cosine about the mean, of examples that are of their class."""
    directions = torch.nn.functional.normalize(features.double() - features.double().mean(0), dim=1)
    same = []
    for rows in torch.arange(len(features)).split(1000):
        cosines = directions[rows] @ directions.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        nearest = cosines.topk(min(NEIGHBOURS, len(features) - 1)).indices
        same.append((classes[nearest] == classes[rows, None]).double().mean(1))
    return float(torch.cat(same).mean())


def k_means(features: Tensor, clusters: int, seed: int) -> NDArray[np.int64]:
    """Clusters of features [N, W]."""
    from sklearn.cluster import KMeans

    starts: Any = STARTS  # its stubs know words alone
    found = KMeans(clusters, n_init=starts, random_state=seed).fit_predict(features.numpy())
    return np.asarray(found, np.int64)


@dataclass(frozen=True, eq=False)
class SplitClusters:
    """The clusters of a split, the network's own first, and purity of the neighbours, by what these are found by."""

    judged: Mapping[str, Judged]
    purity: Mapping[str, float]


def clustered(
    examples: Tensor,
    classes: Tensor,
    answer: Callable[[Tensor], tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    seed: int,
) -> SplitClusters:
    """Compares the clusters of examples [N, *D] with their classes; `answer` gives logits and features of some."""
    logits, features = (torch.cat(parts) for parts in zip(*map(answer, examples.split(1000)), strict=True))
    clusters = logits.shape[1]
    read = {"features": features, "examples themselves": examples.flatten(1)}
    found = {OWN: logits.argmax(1).numpy()}
    found |= {f"k-means on {name}": k_means(values, clusters, seed) for name, values in read.items()}
    judged = {name: Judged.of(one, classes.numpy(), clusters, num_classes) for name, one in found.items()}
    return SplitClusters(judged, {name: purity(values, classes) for name, values in read.items()})


@dataclass(frozen=True, eq=False)
class ClusteringMeasurement(Measurement):
    """Clusters of the training examples, and of held-out ones, beside their classes.

    Attributes:
        about: what the examples are, in a few words.
        splits: by name.
        names: of the classes.
    """

    checkpoint: str
    about: str
    splits: Mapping[str, SplitClusters]
    names: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": "flowfabric.clustering/1",
            "checkpoint": self.checkpoint,
            "splits": {
                split: {
                    "examples": int(of_split.judged[OWN].confusion.sum()),
                    "purity": dict(of_split.purity),
                    "clusters": {
                        name: {
                            "accuracy": one.accuracy,
                            "balanced_accuracy": one.balanced,
                            "normalised_information": one.information,
                            "class_sizes": one.sizes[0].tolist(),
                            "cluster_sizes": one.sizes[1].tolist(),
                            "confusion": one.confusion.tolist(),
                        }
                        for name, one in of_split.judged.items()
                    },
                }
                for split, of_split in self.splits.items()
            },
        }

    def table(self) -> TerminalTable:
        shown = TerminalTable(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, title=self.checkpoint)
        for heading in ("examples", "clusters", *HEADINGS):
            shown.add_column(heading, justify="left" if heading in ("examples", "clusters") else "right", no_wrap=True)
        for row in self._rows():
            shown.add_row(*row)
        return shown

    def remarks(self) -> list[str]:
        return [
            f"{split}: of {NEIGHBOURS} neighbours, "
            + ", ".join(f"{share:.1%} by {name}" for name, share in of_split.purity.items())
            + " are of the same class"
            for split, of_split in self.splits.items()
        ]

    def page(self, run_dir: Path, picture: bytes | None) -> str:
        train = self.splits["training"]
        own, rivals = train.judged[OWN], [one for name, one in train.judged.items() if name != OWN]
        facts = [
            ("Accuracy", f"{own.accuracy:.1%}", f"k-means {max(one.accuracy for one in rivals):.1%} at best"),
            ("Balanced", f"{own.balanced:.1%}", "mean over the classes"),
            ("NMI", f"{own.information:.3f}", f"k-means {max(one.information for one in rivals):.3f} at best"),
            *(("Purity", f"{share:.1%}", f"of neighbours by {name}") for name, share in train.purity.items()),
        ]
        rows = [(f"{split}, {name}", *cells) for split, name, *cells in self._rows()]
        sizes = "Examples of each class, and of the cluster matched with it; clusters beyond the classes follow."
        return page(
            f"The clusters of {run_dir}",
            f"{own.accuracy:.1%} of the training examples are in the cluster of their class, {own.balanced:.1%} in the "
            f"mean of the classes.",
            [
                Section("At a glance", [Facts(facts)]),
                Section("Sizes found and true", [Figure(self._sizes(own), sizes)]),
                Section("Classes and clusters", [Figure(self._confusion(own), "Training examples, a row a class.")]),
                Section("All figures", [Table(("examples, clusters", *HEADINGS), rows, " ".join(self.remarks()))]),
                *([] if picture is None else [Section("Examples", [Figure(picture, "Held-out, by cluster.")])]),
            ],
            kicker=f"{self.about}; {self.checkpoint}, {int(own.confusion.sum()):,} training examples",
            footer="Every figure on this page is in the JSON of the same evaluation; nothing is loaded from a network.",
            verb="evaluate",
        )

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (split, name, *one.row())
            for split, of_split in self.splits.items()
            for name, one in of_split.judged.items()
        ]

    def _sizes(self, own: Judged) -> str:
        classes, clusters = own.sizes
        with mpl.rc_context(STYLE):
            figure = Drawing(figsize=(11.0, 3.2), layout="constrained")
            axes = figure.subplots()
            axes.bar(np.arange(len(classes)) - 0.2, classes, 0.4, color=TRUE, label="class")
            axes.bar(np.arange(len(clusters)) + 0.2, clusters, 0.4, color=FOUND, label="cluster")
            axes.set_xticks(range(len(self.names)), self.names)
            axes.set_ylabel("examples")
            axes.legend(frameon=False)
            return to_svg(figure)

    def _confusion(self, own: Judged) -> str:
        shares = own.confusion / own.confusion.sum(1, keepdims=True).clip(1)
        with mpl.rc_context(STYLE):
            figure = Drawing(figsize=(11.0, 4.6), layout="constrained")
            axes = figure.subplots()
            axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
            axes.set_yticks(range(len(self.names)), self.names)
            axes.set(xlabel="cluster, in the order of the classes that they are matched with", ylabel="class")
            if own.confusion.size <= 900:
                for row, column in np.argwhere(own.confusion > 0).tolist():
                    ink = "white" if shares[row, column] > 0.5 else INK
                    axes.text(column, row, str(own.confusion[row, column]), ha="center", va="center", color=ink, size=8)
            return to_svg(figure)
