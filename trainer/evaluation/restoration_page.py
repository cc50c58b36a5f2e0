"""The page of restored pictures: observations, samples, their distance from the truth, and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import yaml
from numpy.typing import NDArray
from torch import Tensor

from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, DASHED, GREEN, INK, RED, SOFT, Band, Dots, Level, Line, Words, colour_map
from netsim.foundation.page import Block, Facts, Figure, Listing, Note, Section, Table, page
from netsim.foundation.sheet import Column, sheet
from trainer.evaluation.restoration_figures import VANISHED, ByKind, Prior, RestorationFigures, power
from trainer.sampling.restoration import variance
from trainer.sampling.restore_request import RestorePlan

MOST_SAMPLES = 6
"""Samples beside each other."""
PSEUDO_INVERSE, RESTORED, MEAN = RED, BLUE, GREEN
HIDDEN = (0.906, 0.639, 0.243)
"""Colour of hidden pixels, which is no grey."""
LIMIT = 2.0
"""Ratio of weight to noise level from which steps of the prior overshoot ever more."""


def restoration_page(
    plan: RestorePlan,
    run: str,
    checkpoint: str,
    prior: Prior,
    figures: RestorationFigures,
    shown: Sequence[Mapping[str, Tensor]],
) -> str:
    """Composes the page, the same for the same results; `shown` are arrays of the first pictures."""
    request, names = plan.request, figures.names[: len(shown)]
    label = f"class {request.label}, guidance {plan.guidance:g}" if request.label is not None else "no class"
    noise = f", noise {request.noise:g}" if request.noise else ""
    controls = "".join(f", {section.kind}" for section in request.controls)
    pictures = f"{len(shown)} of {len(figures.names)} pictures" if len(shown) < len(figures.names) else "The pictures"
    request_text = yaml.safe_dump(request.model_dump(mode="json"), sort_keys=False).rstrip()
    return page(
        f"{plan.in_words}: {run}",
        _finding(figures),
        [
            Section("At a glance", [Facts(_facts(prior, figures)), *_notes(prior, figures), *_table(figures)]),
            Section(pictures, [Figure(restored_sheet(names, shown), _caption(figures, shown))]),
            *_all_pictures(figures),
            Section(
                "Request and cost",
                [
                    Figure(_weight_chart(prior), _WEIGHT, half=True),
                    Listing(request_text, _cost(prior, figures), half=True),
                ],
            ),
        ],
        kicker=f"{checkpoint}; {request.method.kind}, {request.samples} samples of each picture, {label}{noise}"
        f"{controls}, seed {request.seed}",
        footer="Every figure on this page is in results.json beside it; nothing is loaded from a network. Erbach et "
        "al., Solving Inverse Problems with FLAIR, arXiv 2506.02680.",
    )


def _finding(figures: RestorationFigures) -> str:
    residual, error = power(figures.mean_residual.restored), figures.mean_error
    count = f"{len(figures.names)} pictures"
    if error is None:
        return (
            f"The samples of {count} have a residual of {residual}, their distance from what was observed; what else "
            "they show is likely under the run, but the truth is unknown."
        )
    means, nearer = "", _nearer(figures)
    if figures.samples > 1:
        means = f", and the means of {figures.samples} have {error.share(error.mean_of_samples):.2f} times, nearer in "
        means += f"{nearer.mean_of_samples:.0%} of the pictures"
    return (
        f"Restored samples of {count} have {error.share(error.restored):.2f} times the squared error of the "
        f"pseudo-inverse{means}. Their distance from what was observed, the residual, is {residual}."
    )


def _nearer(figures: RestorationFigures) -> ByKind:
    """Returns the shares of pictures in which each kind is nearer to the truth than the pseudo-inverse."""
    assert figures.errors is not None
    return ByKind.mean((figures.errors < figures.errors[:, :1]).astype(float))


def _facts(prior: Prior, figures: RestorationFigures) -> list[tuple[str, str, str]]:
    error, facts = figures.mean_error, []
    if error is not None:
        of = f"that of the pseudo-inverse, {error.pseudo_inverse:.3f}"
        facts.append(("error of a sample", f"{error.share(error.restored):.2f} x", of))
        if figures.samples > 1:
            mean = f"{error.share(error.mean_of_samples):.2f} x"
            facts.append(("error of the mean", mean, f"of {figures.samples} samples"))
    if (share := figures.variance_share) is not None:
        facts.append(("variance of samples", f"{share:.2f} x", "the variance that the error of their mean calls for"))
    calls = f"of the network for a sample, {figures.evaluations:,} for a picture"
    facts += [
        ("residual", power(figures.mean_residual.restored), "of a sample, mean square"),
        ("largest weight", f"{prior.largest:.2f}", "in parts of the noise level; below 2"),
        ("evaluations", f"{figures.evaluations // figures.samples}", calls),
    ]
    if prior.calibration:
        facts.append(("calibration", f"{prior.calibration:,}", "evaluations, once for this folder"))
    return facts


def _notes(prior: Prior, figures: RestorationFigures) -> list[Note]:
    notes = [VANISHED] if prior.vanished else []
    notes += [figures.left_out] if figures.unreadable else []
    if figures.decoded_residual is not None:
        notes.append(
            "States are latents. What the decoder makes of them differs from the observations by "
            f"{power(figures.decoded_residual)}, a mean square, before what was observed is put back."
        )
    return [Note(text) for text in notes]


def _table(figures: RestorationFigures) -> list[Block]:
    residual, error = figures.mean_residual, figures.mean_error
    if error is None:
        return []
    nearer = _nearer(figures)
    shares = ("", f"{nearer.restored:.0%}", f"{nearer.mean_of_samples:.0%}")
    rows = [
        (kind, f"{value:.4f}", f"{error.share(value):.3f}", share, power(missed))
        for kind, value, share, missed in zip(figures.kinds, error, shares, residual, strict=False)
    ]
    columns = ("", "squared error", "of pseudo-inverse", "nearer than it", "residual")
    best = {(min(range(len(rows)), key=lambda row: error[row]), 1)}
    return [Table(columns, rows, "Means over all pictures; pixels from -1 (black) to 1 (white).", best=best)]


def restored_sheet(names: Sequence[str], arrays: Sequence[Mapping[str, Tensor]]) -> str:
    """Observations, samples, their mean, the truth and the uncertainty, a row for each picture."""
    samples = len(arrays[0]["restored"])
    places = {"pseudo-inverse": (0, PSEUDO_INVERSE)}
    places |= {f"sample {number}": (number, RESTORED) for number in range(1, min(samples, MOST_SAMPLES) + 1)}
    if samples > 1:
        places["mean"] = (samples + 1, MEAN)
    columns = [Column("observed", [_observed(one) for one in arrays], names)]
    for title, (place, colour) in places.items():
        images = [_shown(_candidate(one, place)) for one in arrays]
        columns.append(Column(title, images, [_words(one, place) for one in arrays], colour))
    if "truth" in arrays[0]:
        columns.append(Column("truth", [_shown(one["truth"]) for one in arrays]))
    if samples > 1:
        spreads = [variance(one["restored"]).mean(0).sqrt().numpy() for one in arrays]
        largest, colours = max(float(spread.max()) for spread in spreads) or 1.0, colour_map("magma")
        words = [f"{float(np.sqrt((spread**2).mean())):.3f}" for spread in spreads]
        columns.append(Column("uncertainty", [colours(spread / largest)[..., :3] for spread in spreads], words))
    return sheet(columns, name="restored")


def _shown(image: Tensor) -> NDArray[np.floating]:
    """An image [C, H, W] from -1 to 1 as [H, W, C] or [H, W] from 0 to 1."""
    values = np.nan_to_num((image.numpy() + 1) / 2).clip(0, 1).transpose(1, 2, 0)
    return values[..., 0] if values.shape[2] == 1 else values


def _observed(arrays: Mapping[str, Tensor]) -> NDArray[np.floating] | None:
    """The observation, with hidden pixels in another colour; None if it is no picture."""
    values = arrays["observed"]
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        return None
    if "hole" not in arrays:
        return _shown(values)
    return np.where(arrays["hole"].numpy().transpose(1, 2, 0), HIDDEN, _shown(values.expand(3, *values.shape[1:])))


def _candidate(arrays: Mapping[str, Tensor], place: int) -> Tensor:
    restored = arrays["restored"]
    if place == 0:
        return arrays["pseudo_inverse"]
    return restored.mean(0) if place > len(restored) else restored[place - 1]


def _words(arrays: Mapping[str, Tensor], place: int) -> str:
    residual = f"residual {power(float(arrays['residuals'][place]))}"
    return f"error {float(arrays['errors'][place]):.3f}\n{residual}" if "errors" in arrays else residual


def _caption(figures: RestorationFigures, shown: Sequence[Mapping[str, Tensor]]) -> str:
    hidden = "Hidden pixels are orange. " if "hole" in shown[0] else ""
    return hidden + _PICTURES + ("" if figures.errors is None else _TRUTH)


_PICTURES = (
    "Pseudo-inverse: the smallest picture that agrees with the observation. Samples: other draws for the same "
    "observation. Mean: of the samples, which errs least and looks like none of them. Uncertainty: standard deviation "
    "of the samples at each pixel, brighter is less certain, and its root mean square."
)
_TRUTH = (
    " Error: mean squared difference to the truth. Residual: mean squared difference of what would be observed to what "
    "was."
)


def _all_pictures(figures: RestorationFigures) -> list[Section]:
    """Sections about the errors of all pictures; none if the truth is unknown."""
    if figures.errors is None:
        return []
    blocks = [Figure(_error_chart(figures.errors), _DISTRIBUTION, half=True)]
    share = figures.variance_share
    if share is None:
        return [Section("Errors of all pictures", blocks)]
    chart = _spread_chart(figures.errors[:, -1], figures.spreads, figures.samples)
    blocks.append(Figure(chart, _SPREAD, half=True))
    title = "Samples vary less than the truth does" if share < 0.9 else "Samples vary as much as the truth does"
    return [Section(title if share < 1.1 else "Samples vary more than the truth does", blocks)]


def _error_chart(errors: NDArray[np.float64]) -> str:
    """The share of pictures whose error [N, S + 2] is at most so large, by kind."""
    marks = []
    for name, colour, values in (
        ("pseudo-inverse", PSEUDO_INVERSE, errors[:, 0]),
        ("a sample", RESTORED, errors[:, 1:-1].ravel()),
        ("mean of the samples", MEAN, errors[:, -1]),
    ):
        shares = np.arange(len(values) + 1) / len(values)
        marks.append(Line([0.0, *np.sort(values)], shares, colour, name, steps=True))
        marks.append(Dots([np.median(values)], [0.5], colour, size=40))
    panel = Panel(marks, x="squared error", y="share of pictures", legend="best", grid="both", x_limits=(0, None))
    return chart([panel], size=(5.4, 3.7), name="errors")


def _spread_chart(errors: NDArray[np.float64], spreads: NDArray[np.float64], samples: int) -> str:
    """Draws the error of the samples' mean against their variance; on the line, the truth behaves like a sample."""
    reach = 1.08 * float(max(spreads.max(), errors.max())) or 1.0
    line = Line([0, reach], [0, reach * (1 + 1 / samples)], SOFT, dash=DASHED, width=1.1)
    limits = (0, 1.12 * float(spreads.max()) or 1.0), (0, 1.08 * float(errors.max()) or 1.0)
    panel = Panel(
        [line, Dots(spreads, errors, MEAN, size=32)], x="variance of the samples", y="squared error of their mean",
        grid="both", x_limits=limits[0], y_limits=limits[1],
    )  # fmt: skip
    return chart([panel], size=(5.4, 3.7), name="spreads")


def _weight_chart(prior: Prior) -> str:
    """Draws the length of a step of the prior, as a share of the distance, against the noise level."""
    top = max(LIMIT * 1.08, 1.1 * float(prior.ratios.max()))
    marks = [
        Line(prior.levels, prior.ratios, RESTORED),
        Band([0, 1], [LIMIT] * 2, [top] * 2, RED),
        Level(1.0, width=1.0),
        Words(0.03, LIMIT - 0.09, "from 2 on: unstable", RED, align="right"),
        Words(0.03, 0.91, "1: to what the network expects", INK, align="right"),
    ]
    x, y = "noise level, from 1 (noise) to 0 (data)", "weight / noise level"
    panel = Panel(marks, x=x, y=y, x_limits=(1.0, 0.0), y_limits=(0, top), grid="both")
    return chart([panel], size=(5.4, 3.7), name="weights")


def _cost(prior: Prior, figures: RestorationFigures) -> str:
    of_all = figures.evaluations * len(figures.names)
    calibration = f", and {prior.calibration:,} by which the weight was calibrated" if prior.calibration else ""
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
