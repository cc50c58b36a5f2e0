"""Pictures that matplotlib draws as reproducible SVG, without its global state."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

INK = "#1c2733"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "flowfabric",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#8a949e",
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def to_svg(figure: Figure, salt: str = "flowfabric") -> str:
    """Render a figure as SVG markup inside a page: without date, the same bytes for the same figure.

    `salt` decides the names inside the markup. Pictures of which a page hides one need different ones, because what is
    hidden defines no name for the others.
    """
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = stream.getvalue()
    return text[text.index("<svg") :]
