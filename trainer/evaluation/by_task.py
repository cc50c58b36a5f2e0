"""How well a flow draws each of the tasks that its routed adapters tell apart, and which modules each uses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import trainer.data
from moe.adapters import RoutedLinear
from moe.report.drawing import AMOUNTS, FULL_WIDTH, PAPER, RULE, SOFT, Drawing, draw_scale, png, text_width
from moe.seeds import derive_seed
from netsim.foundation.page import Facts, Figure, Section, Table
from trainer.config.derived import task_names
from trainer.config.sample import ImageSample
from trainer.evaluation.judgement import COLUMNS, JUDGED, PANELS, parted
from trainer.model.network import frozen_tensors
from trainer.sampling.conditioning import tasks_of
from trainer.sampling.draw import TrainedFlow

TOGETHER = 250
"""Samples that are drawn at once."""

Distances = Callable[[NDArray[np.floating], NDArray[np.floating], int], dict[str, float]]


@dataclass(frozen=True, eq=False)
class TaskFigures:
    """Figures by task, and what the adapters are.

    Attributes:
        measure: the distance that a person sees first, a key of `figures`.
        figures: by the name of a task, distances of its samples to its real examples.
        floors: the same of two sets of its real examples.
        parameters: numbers of ``trained`` parameters, of those of the ``routing`` among them, and of ``frozen`` ones.
        weights: by the name of a layer, the weights [tasks, heads, modules] of its modules.
    """

    measure: str
    figures: Mapping[str, dict[str, float]]
    floors: Mapping[str, dict[str, float]]
    parameters: Mapping[str, int]
    weights: Mapping[str, NDArray[np.float32]] = field(repr=False)
    name: ClassVar[str] = "tasks"

    def to_dict(self) -> dict[str, Any]:
        return {"figures": dict(self.figures), "floors": dict(self.floors), "parameters": dict(self.parameters)}

    def remarks(self) -> list[str]:
        by_name = ", ".join(f"{name} {one[self.measure]:.4g}" for name, one in self.figures.items())
        return [f"{COLUMNS[self.measure]} by task, by the run's own sampler: {by_name}"]

    def section(self) -> Section:
        rows = [
            (name, f"{figures[self.measure]:.4g}", f"{self.floors[name][self.measure]:.4g}")
            for name, figures in self.figures.items()
        ]
        counted = self.parameters
        share = counted["trained"] / (counted["trained"] + counted["frozen"])
        facts = [
            ("Trained", f"{counted['trained']:,}", f"{share:.2%} of all parameters"),
            ("Routing", f"{counted['routing']:,}", "of them, the only ones that a task has for itself"),
        ]
        table = Table(
            ("task", PANELS[self.measure], "real examples"), rows, "Drawn by the run's own sampler, without guidance."
        )
        maps = Figure(
            _task_maps(tuple(self.figures), self.weights),
            "Weights of the modules of each layer: a row a task, between the lines the modules of one head. Equal rows "
            "are tasks that share all.",
        )
        return Section("Tasks and their modules", [Facts(facts), table, maps])


def by_task(
    flow: TrainedFlow, *, num: int, seed: int, distances: Distances, progress: Callable[[str], None]
) -> TaskFigures | None:
    """Measures the run's own sampler task by task, at least 2 samples each.

    None: the run tells no tasks apart, or draws for contexts of held-out examples.
    """
    names, config = task_names(flow.config), flow.config
    if not names or flow.config.context_shape is not None:
        return None
    dataset = trainer.data.build(config.data)
    batch = dataset.get(trainer.data.first_data_points(dataset, "train", JUDGED))
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "shown"))
    real, tasks = flow.parts.space.shown(batch.x_1, generator=generator), tasks_of(config, batch)
    assert tasks is not None
    figures, floors, of_each = {}, {}, max(2, num // len(names))
    for number, name in enumerate(names):
        own = real[tasks == number].numpy()
        if len(own) < 4:
            continue
        progress(f"drawing {of_each} of task {name}, {number + 1} of {len(names)}")
        conditioning = flow.conditioning(of_each, seed=seed, shown=False).of_task(number)
        drawn = [
            flow.follow(conditioning.condition, some, flow.sample.sampler, guidance=1.0, seed=seed).final.cpu()
            for some in torch.arange(of_each).split(TOGETHER)
        ]
        samples = flow.decode(flow.parts.data_of(torch.cat(drawn)), conditioning).numpy()
        figures[name] = distances(samples, own, seed)
        floors[name] = distances(*parted(own, of_each, seed=seed), seed)
    layers = {name: module for name, module in flow.model.named_modules() if isinstance(module, RoutedLinear)}
    learns = {name: parameter.numel() for name, parameter in flow.model.named_parameters()}
    return TaskFigures(
        "frechet_distance" if isinstance(config.sample, ImageSample) else "wasserstein_2",
        figures,
        floors,
        {
            "trained": sum(learns.values()),
            "routing": sum(size for name, size in learns.items() if ".routing." in name),
            "frozen": sum(values.numel() for _, values in frozen_tensors(flow.model)),
        },
        {name: layer.routing.weights().detach().float().cpu().numpy() for name, layer in layers.items()},
    )


_KEY, _GAP, _ROW, _PER_ROW = 70, 24, 14, 3


def _task_maps(tasks: Sequence[str], weights: Mapping[str, NDArray[np.floating]]) -> str:
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
