"""Agreement of clusters with classes, compared with k-means: figures, a table and a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table as TerminalTable
from torch import Tensor

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, GREY, Dots, HeatMap, Line
from netsim.foundation.page import Facts, Figure, Section, Table, page
from trainer.observe.measurement import FOOTER, Measurement, figures_table

NEIGHBOURS = 20
STARTS = 10
"""Starts of k-means, of which the best result counts."""
MOST_MATCHED = 20
"""Clusters whose classes are written below their examples."""
OWN = "own clusters"
HEADINGS = ("accuracy", "balanced", "NMI", "clusters in use")


@dataclass(frozen=True, eq=False)
class Judged:
    """Clusters compared with classes; each class is matched to a cluster so that most examples agree.

    Attributes:
        accuracy: share of examples in the cluster of their class (Hungarian).
        balanced: mean over the classes of the share within each class.
        information: mutual information over the mean of both entropies (NMI).
        confusion: int64 [classes, clusters], the cluster of class c in column c; a column is empty if clusters are too
            few.
        matched: number of the cluster of each class.
    """

    accuracy: float
    balanced: float
    information: float
    confusion: NDArray[np.int64]
    matched: Sequence[int]

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
            matched.tolist(),
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
    """Returns the mean share of an example's nearest neighbours, by cosine about the mean, that are of its class.

    An example counts no more neighbours than its class has other examples, so that 1 can be reached.
    """
    directions = torch.nn.functional.normalize(features.double() - features.double().mean(0), dim=1)
    of_class = (torch.bincount(classes) - 1).clamp(1, NEIGHBOURS)[classes]
    same = []
    for rows in torch.arange(len(features)).split(1000):
        cosines = directions[rows] @ directions.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        nearest = cosines.topk(min(NEIGHBOURS, len(features) - 1)).indices
        counted = torch.arange(nearest.shape[1]) < of_class[rows, None]
        same.append(((classes[nearest] == classes[rows, None]) & counted).sum(1) / of_class[rows])
    return float(torch.cat(same).mean())


def k_means(features: Tensor, clusters: int, seed: int) -> NDArray[np.int64]:
    """Clusters of features [N, W] by k-means, on one thread, since several threads would sum in a random order."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    starts: Any = STARTS  # its stubs know words alone
    with threadpool_limits(1):
        labels = KMeans(clusters, n_init=starts, random_state=seed).fit_predict(features.numpy())
    return np.asarray(labels, np.int64)


def centres(features: Tensor, clusters: int, seed: int) -> Tensor:
    """The means [clusters, W] of the clusters of features [N, W] by k-means."""
    members = torch.nn.functional.one_hot(torch.from_numpy(k_means(features, clusters, seed)), clusters)
    return members.mT.to(features) @ features / members.sum(0).clamp_min(1)[:, None]


@dataclass(frozen=True, eq=False)
class SplitClusters:
    """Clusters of a split by method, the network's own first, and purity of neighbours by kind of features."""

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
    """Compares the clusters of examples [N, *D] with their classes; `answer` gives logits and features of a batch."""
    logits, features = (torch.cat(parts) for parts in zip(*map(answer, examples.split(1000)), strict=True))
    clusters = logits.shape[1]
    read = {"features": features, "examples themselves": examples.flatten(1)}
    labels = {OWN: logits.argmax(1).numpy()}
    labels |= {f"k-means on {name}": k_means(values, clusters, seed) for name, values in read.items()}
    judged = {name: Judged.of(one, classes.numpy(), clusters, num_classes) for name, one in labels.items()}
    return SplitClusters(judged, {name: purity(values, classes) for name, values in read.items()})


_MATCHED = "cluster, by the class that it is matched with; others follow"


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
        return figures_table(("examples", "clusters", *HEADINGS), self._rows(), title=self.checkpoint, words=2)

    def remarks(self) -> list[str]:
        return [
            f"{split}: of {NEIGHBOURS} neighbours or fewer, "
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
        shares = "Shares of the training examples of a class, which is a row."
        sizes = "Examples of each class, and of the cluster matched with it; clusters beyond the classes follow."
        return page(
            f"The clusters of {run_dir}",
            f"{own.accuracy:.1%} of the training examples are in the cluster of their class, {own.balanced:.1%} in the "
            f"mean of the classes; k-means reaches {max(one.accuracy for one in rivals):.1%} at best.",
            [
                Section("At a glance", [Facts(facts)]),
                Section("Sizes of clusters and classes", [Figure(self._sizes(own), sizes)]),
                Section(
                    "Classes and clusters",
                    [Figure(confusion_chart(own.confusion, self.names, _MATCHED), shares)],
                ),
                Section(
                    "All figures", [Table(("examples, clusters", *HEADINGS), rows, "; ".join(self.remarks()) + ".")]
                ),
                *([] if picture is None else [Section("Examples", [Figure(picture, self._columns(own))])]),
            ],
            kicker=f"{self.about}; {self.checkpoint}, {int(own.confusion.sum()):,} training examples",
            footer=FOOTER,
            verb="evaluate",
        )

    def _columns(self, own: Judged) -> str:
        pairs = sorted(zip(own.matched, self.names, strict=True))[:MOST_MATCHED]
        beyond = ", ..." if len(own.matched) > MOST_MATCHED else ""
        named = ", ".join(f"{cluster} ({name})" for cluster, name in pairs)
        return f"Held-out examples by number of the cluster. In brackets its class: {named}{beyond}."

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (split, name, *one.row())
            for split, of_split in self.splits.items()
            for name, one in of_split.judged.items()
        ]

    def _sizes(self, own: Judged) -> str:
        classes, clusters = own.sizes
        most = max(len(classes), len(clusters))
        marks = [
            *(Line([place, place], [0, size], GREY, width=6, alpha=0.5) for place, size in enumerate(classes)),
            Dots(range(len(classes)), classes, GREY, "class", 60, "s"),
            Dots(range(len(clusters)), clusters, BLUE, "cluster", 36),
        ]
        ticks = {float(place): name for place, name in enumerate(self.names)}
        limits = (-0.6, most - 0.4)
        panel = Panel(marks, y="examples", x_ticks=ticks, x_limits=limits, y_limits=(0, None), legend="right")
        return chart([panel], size=(11.0, 3.2), name="sizes")


def confusion_chart(confusion: NDArray[np.int64], names: Sequence[str], x: str) -> str:
    """Draws counts of examples [classes, columns] as shares of their row; columns beyond the classes have no name."""
    shares = confusion / confusion.sum(1, keepdims=True).clip(1)
    values = HeatMap(np.where(confusion > 0, shares, np.nan), form="{:.0%}" if shares.size <= 900 else "")
    ticks = {float(place): name for place, name in enumerate(names)}
    panel = Panel([values], x=x, y="class", x_ticks=ticks, rows=names, grid="")
    return chart([panel], size=(11.0, 4.6), name="confusion")
