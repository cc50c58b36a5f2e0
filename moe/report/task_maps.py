"""Maps of the modules that tasks use: a small heat map a layer, a row a task, the modules of each head side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moe.report.drawing import AMOUNTS, FULL_WIDTH, PAPER, RULE, SOFT, Drawing, draw_scale, png, text_width

_KEY, _GAP, _ROW, _PER_ROW = 70, 24, 14, 3


def task_maps(tasks: Sequence[str], weights: Mapping[str, NDArray[np.floating]]) -> str:
    """Draw the weights of modules by task, layer by layer: [tasks, heads, modules], each head's sum is 1."""
    most = max(float(of_layer.max()) for of_layer in weights.values())
    left = 12 + max(text_width(task, 12) for task in tasks)
    width = (FULL_WIDTH - left - _KEY) / _PER_ROW - _GAP
    height = _ROW * len(tasks)
    rows = -(-len(weights) // _PER_ROW)
    drawing = Drawing(FULL_WIDTH, rows * (height + 34) + 20)
    for number, (layer, of_layer) in enumerate(weights.items()):
        x, y = left + number % _PER_ROW * (width + _GAP), number // _PER_ROW * (height + 34) + 30
        heads = of_layer.shape[1]
        drawing.text(x, y - 8, layer, size=12)
        drawing.image(x, y, width, height, png(of_layer.reshape(len(of_layer), -1).astype(np.float64) / most, AMOUNTS))
        edges = [x + width * head / heads for head in range(1, heads)]
        drawing.segments([(edge, y, edge, y + height) for edge in edges], PAPER, width=2)
        drawing.segments([(edge, y, edge, y + height) for edge in edges], RULE)
        if number % _PER_ROW == 0:
            for task, name in enumerate(tasks):
                drawing.text(x - 6, y + _ROW * (task + 0.5) + 4, name, anchor="end", size=12, colour=SOFT)
    labels = [(0.0, "0"), (1.0, f"{most:.2g}")]
    draw_scale(drawing, FULL_WIDTH - _KEY + 12, 34, max(height, 40), AMOUNTS, labels, "weight")
    return drawing.markup()
