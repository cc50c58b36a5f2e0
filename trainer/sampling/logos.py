"""Pictures of sequences: logos, in which the height of a letter is its share of the information of its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import trainer.data
from netsim.foundation.files import replacing
from trainer.config.run import RunConfig
from trainer.data.sequences import texts

NUCLEOTIDES = {"A": "#009e73", "C": "#0072b2", "G": "#e69f00", "T": "#d55e00", "U": "#d55e00"}
OTHERS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#5b6875", "#e69f00", "#56b4e9")
LEAST_BITS = 0.01
"""Letters that would be lower are left out."""
PLACE_INCHES, PANEL_INCHES = 0.28, 2.0


def show_sequences(config: RunConfig, drawn: Tensor, labels: Tensor, path: Path) -> None:
    """Writes one-hot sequences [N, V, 1, L] as FASTA beside `path`, which gets logos of the data and of them."""
    dataset = trainer.data.build(config.data)
    real = dataset.get(trainer.data.first_data_points(dataset, "train", len(drawn))).x_1
    logos({"data": _shares(real), "drawn": _shares(drawn)}, config.alphabet, path)
    names = config.data.class_names
    with replacing(path.with_suffix(".fasta")) as temporary:
        lines = (
            f">{number}{f' {names[label]}' if names else ''}\n{text}\n"
            for number, (text, label) in enumerate(
                zip(texts(drawn, config.alphabet, getattr(config.data, "pad", None)), labels.tolist(), strict=True), 1
            )
        )
        temporary.write_text("".join(lines), encoding="utf-8")


def _shares(sequences: Tensor) -> NDArray[np.floating]:
    return sequences.double().mean(0).reshape(sequences.shape[1], -1).T.numpy()


def information(shares: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bits [L, V] of letters with shares [L, V]: each share of the difference of a place's entropy from the largest."""
    entropy = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(1, keepdims=True)
    return shares * (math.log2(shares.shape[1]) - entropy)


def logos(panels: Mapping[str, NDArray[np.floating]], alphabet: str, path: Path) -> None:
    """Writes a logo for each title from shares of letters [L, V], one below the other, as one PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    font = FontProperties(family="DejaVu Sans Mono", weight="bold")
    outlines = {letter: TextPath((0, 0), letter, size=1, prop=font) for letter in alphabet}
    colours = dict(zip(alphabet, OTHERS * (len(alphabet) // len(OTHERS) + 1), strict=False))
    if set(alphabet) <= {*NUCLEOTIDES, "-", "N"}:
        colours |= NUCLEOTIDES
    length = max(len(shares) for shares in panels.values())
    figure = Figure(figsize=(1.2 + PLACE_INCHES * max(length, 12), PANEL_INCHES * len(panels)), dpi=120)
    FigureCanvasAgg(figure)
    figure.set_layout_engine("constrained")
    for axes, (title, shares) in zip(figure.subplots(len(panels), squeeze=False).flat, panels.items(), strict=True):
        for place, bits in enumerate(information(shares)):
            bottom = 0.0
            for letter in np.argsort(bits):
                height, outline = float(bits[letter]), outlines[alphabet[letter]]
                box = outline.get_extents()
                if height < LEAST_BITS or not box.width or not box.height:
                    continue
                moved = Affine2D().translate(-box.x0, -box.y0).scale(0.9 / box.width, height / box.height)
                shape = outline.transformed(moved.translate(place + 0.55, bottom))
                axes.add_patch(PathPatch(shape, color=colours[alphabet[letter]], linewidth=0))
                bottom += height
        axes.set(xlim=(0.4, length + 0.6), ylim=(0, math.log2(len(alphabet))), title=title, ylabel="bits")
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
