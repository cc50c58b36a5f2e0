"""Pictures of correspondences: surfaces with colours carried over, functional maps and curves of errors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from moe.report.figures import INK, STYLE, to_svg
from netsim.foundation.files import replacing
from trainer.data.surface_files import Surface, write_surface
from trainer.data.surfaces import Pair
from trainer.evaluation.correspondence.matching import Matched, MatchedPair, carried

Floats = NDArray[np.float64]
UNKNOWN = 0.8
"""Grey of vertices that get no colour."""
LIGHT = np.array([0.4, 0.3, 0.87])
CURVE_UP_TO = 0.5
COLOURS = {"signatures": "#8a949e", "features": "#0072b2", "distances to landmarks": "#d55e00"}
DASHES = {"nearest neighbour": "dotted", "functional map": "dashdot", "nearest upsampling": "dashed"}


def colours_at(places: Floats, of: Surface) -> Floats:
    """Red, green and blue [V, 3] from 0 to 1 by the place on a surface; grey where it is not a number."""
    low, high = of.vertices.min(0), of.vertices.max(0)
    return np.nan_to_num((places - low) / np.maximum(high - low, 1e-12), nan=UNKNOWN)


def show_pairs(matched: Sequence[tuple[Pair, Matched]], stem: Path) -> None:
    """Writes a PNG of pairs, a row each, and beside it the surfaces of each as PLY with their colours."""
    with replacing(stem.with_suffix(".png")) as temporary:
        temporary.write_bytes(pairs_png(matched))
    for number, (pair, own) in enumerate(matched):
        for name, side, places in carried(pair, own):
            file = stem.with_name(f"{stem.name}_{number}_{name.split(',')[-1].split()[-1]}.ply")
            colours = np.round(255 * colours_at(places, pair.first.surface)).astype(np.uint8)
            write_surface(file, side.surface, colours)


def pairs_png(matched: Sequence[tuple[Pair, Matched]]) -> bytes:
    """Surfaces from the side on which they are widest, colours carried from the first to the second."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(9.0, 3.4 * len(matched)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for row, (pair, own) in zip(figure.subplots(len(matched), 3, squeeze=False), matched, strict=True):
        for axes in row:
            axes.set_axis_off()
        for axes, (name, side, places) in zip(row, carried(pair, own), strict=False):
            axes.add_collection(_drawn(side.surface, colours_at(places, pair.first.surface)))
            axes.set_aspect("equal")
            axes.autoscale_view()
            axes.set_title(name, fontsize=9, color=INK)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _drawn(surface: Surface, colours: Floats) -> PolyCollection:
    """Triangles from behind to the front, shaded."""
    order = np.argsort(-np.ptp(surface.vertices, axis=0), kind="stable")
    up, across, depth = surface.vertices[:, order].T
    turned = np.stack([across, up, depth], axis=1)
    corners = turned[surface.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    shade = 0.6 + 0.4 * np.abs(normals @ LIGHT)
    shown = colours[surface.triangles].mean(1) * shade[:, None]
    behind = np.argsort(corners[:, :, 2].mean(1), kind="stable")
    return PolyCollection([*corners[behind][:, :, :2]], facecolors=shown[behind], edgecolors="face", linewidths=0.2)


def matrix_svg(carries: Tensor) -> str:
    """Coefficients of a functional map; a diagonal up to signs keeps what is between two points."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.4), layout="constrained")
        axes = figure.subplots()
        image = axes.pcolormesh(carries.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
        axes.invert_yaxis()
        axes.set(xlabel="eigenfunction of the first", ylabel="eigenfunction of the second", aspect="equal")
        figure.colorbar(image, ax=axes, shrink=0.8)
        return to_svg(figure)


def curves_svg(pairs: Sequence[MatchedPair], *, mirrored: bool) -> str:
    """Share of the points whose error is at most so large, over all pairs."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.4), layout="constrained")
        axes = figure.subplots()
        at = np.linspace(0, CURVE_UP_TO, 101)
        for number, one in enumerate(pairs[0].matches):
            found = [pair.matches[number].mirrored if mirrored else pair.matches[number].errors for pair in pairs]
            errors = np.concatenate([values for values in found if values is not None])
            share = (errors[:, None] <= at).mean(0)
            dashes = DASHES.get(one.by, "solid")
            axes.plot(at, share, label=f"{one.begins}, {one.by}", color=COLOURS[one.begins], linestyle=dashes)
        axes.set(xlabel="error, in roots of the area", ylabel="share of points", ylim=(0, 1.01), xlim=(0, CURVE_UP_TO))
        axes.legend(frameon=False, fontsize=7)
        return to_svg(figure)
