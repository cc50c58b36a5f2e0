"""The page of restored pictures: what was seen, what it was taken for, how far that is from the truth, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.page import Block, Facts, Figure, Listing, Note, Section, Table, page
from trainer.evaluation.restoration.figures import Figures, Kinds, power
from trainer.evaluation.restoration.pictures import (
    columns_of,
    distribution_chart,
    picture_rows,
    spread_chart,
    uncertainty_of,
    weight_chart,
)

SHOWN = 8
"""Pictures that the page shows."""


@dataclass(frozen=True)
class Told:
    """Text of a page besides figures and pictures.

    Attributes:
        kicker: settings, in a line.
        request: as YAML.
        weight: noise levels and the weights of the prior in parts of these, float64 [T] each.
        largest: of these parts, at a step.
        calibration: evaluations of the network that the calibration took; 0 without one.
        caution: what a reader must not miss; empty if nothing.
    """

    run: str
    checkpoint: str
    task: str
    kicker: str
    request: str
    weight: tuple[NDArray[np.float64], NDArray[np.float64]]
    largest: float
    calibration: int
    caution: str


def restoration_page(told: Told, figures: Figures, shown: Sequence[Mapping[str, Tensor]]) -> str:
    """Composes the page, the same for the same results."""
    notes: list[Block] = [Note(told.caution)] if told.caution else []
    if figures.unreadable:
        notes.append(Note(figures.left_out))
    names = figures.names[: len(shown)]
    sections = [
        Section("At a glance", [Facts(_facts(told, figures)), *notes, *_lost(figures), *_table(figures)]),
        Section(
            f"{len(shown)} of {len(figures.names)} pictures" if len(shown) < len(figures.names) else "The pictures",
            [Figure(picture_rows(columns_of(names, shown), uncertainty_of(shown)), _pictures(figures, shown))],
        ),
        *([Section("All pictures", _charts(figures))] if figures.errors is not None else []),
        Section(
            "How it was asked, and what that cost",
            [
                Figure(weight_chart(*told.weight), _WEIGHT, half=True),
                Listing(told.request, _cost(told, figures), half=True),
            ],
        ),
    ]
    return page(
        f"{told.task}: {told.run}",
        _finding(figures),
        sections,
        kicker=told.kicker,
        footer="Every figure on this page is in results.json beside it; nothing is loaded from a network. Erbach et "
        "al., Solving Inverse Problems with FLAIR, arXiv 2506.02680.",
    )


_PICTURES = (
    "{hidden}Pseudo-inverse: the smallest picture that agrees with the observation. Samples: other draws for the same "
    "observation. Mean: of the samples, which errs least and looks like none of them. Uncertainty: standard deviation "
    "of the samples at each pixel, brighter is less certain, and its root mean square."
)


_TRUTH = (
    " Error: mean squared difference to the truth. Residual: mean squared difference of what would be observed to what "
    "was."
)


def _pictures(figures: Figures, shown: Sequence[Mapping[str, Tensor]]) -> str:
    hidden = "Hidden pixels are orange. " if "hole" in shown[0] else ""
    return _PICTURES.format(hidden=hidden) + ("" if figures.errors is None else _TRUTH)


def _finding(figures: Figures) -> str:
    residual, error = figures.mean_residual, figures.mean_error
    count = f"{len(figures.names)} pictures"
    if error is None:
        return (
            f"The samples of {count} have a residual of {power(residual.restored)}, their distance from what was "
            "observed; what else they show is likely under the run, but nobody has seen it."
        )
    means = f", and their means {_share(error.mean_of_samples, error):.2f} times" if figures.samples > 1 else ""
    return (
        f"Restored samples of {count} have {_share(error.restored, error):.2f} times the squared error of the "
        f"pseudo-inverse{means}. Their distance from what "
        f"was observed, the residual, is {power(residual.restored)}."
    )


def _share(value: float, error: Kinds) -> float:
    return value / error.pseudo_inverse if error.pseudo_inverse > 0 else 1.0


def _lost(figures: Figures) -> list[Block]:
    if figures.decoded_residual is None:
        return []
    return [
        Note(
            f"States are latents. What the decoder makes of them differs from the observations by "
            f"{power(figures.decoded_residual)}, a mean square, before what was observed is put back."
        )
    ]


def _facts(told: Told, figures: Figures) -> list[tuple[str, str, str]]:
    error, residual = figures.mean_error, figures.mean_residual
    found = []
    if error is not None:
        found = [
            (
                "error of a sample",
                f"{_share(error.restored, error):.2f} x",
                f"that of the pseudo-inverse, {error.pseudo_inverse:.3f}",
            ),
        ]
        if figures.samples > 1:
            mean = f"{_share(error.mean_of_samples, error):.2f} x"
            found.append(("error of the mean", mean, f"of {figures.samples} samples"))
    if (share := figures.variance_share) is not None:
        found.append(("variance of samples", f"{share:.2f} x", "what the error of their mean asks for"))
    found += [
        ("residual", power(residual.restored), "of a sample, mean square"),
        ("largest weight", f"{told.largest:.2f}", "in parts of the noise level; below 2"),
        (
            "evaluations",
            f"{figures.evaluations // figures.samples}",
            f"of the network for a sample, {figures.evaluations:,} for a picture",
        ),
    ]
    if told.calibration:
        found.append(("calibration", f"{told.calibration:,}", "evaluations, once for this folder"))
    return found


def _table(figures: Figures) -> list[Block]:
    residual, error = figures.mean_residual, figures.mean_error
    if error is None:
        return []
    assert figures.errors is not None
    nearer = (figures.errors < figures.errors[:, :1]).astype(float)
    shares = ("", f"{100 * nearer[:, 1:-1].mean():.0f} %", f"{100 * nearer[:, -1].mean():.0f} %")
    rows = [
        (name, f"{own:.4f}", f"{_share(own, error):.3f}", share, power(missed))
        for name, own, share, missed in zip(figures.rows_told, error, shares, residual, strict=False)
    ]
    columns = ("", "squared error", "of pseudo-inverse", "nearer than it", "residual")
    best = {(min(range(len(rows)), key=lambda row: error[row]), 1)}
    return [Table(columns, rows, "Means over all pictures; pixels from -1 (black) to 1 (white).", best=best)]


def _charts(figures: Figures) -> list[Block]:
    assert figures.errors is not None
    found: list[Block] = [Figure(distribution_chart(figures.errors, "squared error"), _DISTRIBUTION, half=True)]
    if figures.samples > 1:
        chart = spread_chart(figures.errors[:, -1], figures.spreads, figures.samples)
        found.append(Figure(chart, _SPREAD, half=True))
    return found


def _cost(told: Told, figures: Figures) -> str:
    of_all = figures.evaluations * len(figures.names)
    calibration = f", and {told.calibration:,} by which the weight was calibrated" if told.calibration else ""
    return f"The request, every default written out. The network was evaluated {of_all:,} times{calibration}."


_DISTRIBUTION = "Share of the pictures with at most this error; dots are medians. Further left is better."
_SPREAD = (
    "A dot for each picture. On the dashed line, the truth lies as far from the samples as these lie from each other, "
    "so that their uncertainty can be believed; far above it, they are too sure of themselves, as samples of the "
    "calibrated weight are. The request flair_posterior is for samples that vary more."
)
_WEIGHT = (
    "How far each step goes towards what the network expects of the noised picture. Below 1 a step does not overshoot; "
    "from 2 on the steps grow without end, and the verb refuses."
)
