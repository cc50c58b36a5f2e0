"""Sample quality of a flow for each task of its routed adapters, and the modules that each task uses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

import trainer.data
from moe.adapters import RoutedLinear
from moe.seeds import derive_seed
from netsim.foundation.chart import Key, Panel, chart
from netsim.foundation.marks import HeatMap, Level, Mark
from netsim.foundation.page import Facts, Figure, Section, Table
from trainer.config.derived import task_names
from trainer.config.sample import ImageSample
from trainer.evaluation.judgement import COLUMNS, JUDGED, PANELS, parted
from trainer.evaluation.readings import drawn_states
from trainer.model.network import frozen_tensors
from trainer.sampling.conditioning import tasks_of
from trainer.sampling.draw import TrainedFlow

Distances = Callable[[NDArray[np.floating], NDArray[np.floating], int], dict[str, float]]


@dataclass(frozen=True, eq=False)
class TaskFigures:
    """Figures by task, and parameters and weights of the adapters.

    Attributes:
        measure: the distance that is reported first, a key of each task's figures.
        figures: by the name of a task, distances of its samples to its real examples.
        floors: the same distances between two sets of its real examples.
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

    None if the run has no tasks, or draws for contexts of held-out examples.
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
        states = drawn_states(flow, conditioning, guidance=1.0, seed=seed)
        samples = flow.decode(flow.parts.data_of(states), conditioning).numpy()
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


PER_ROW = 3
"""Layers side by side."""


def _task_maps(tasks: Sequence[str], weights: Mapping[str, NDArray[np.floating]]) -> str:
    """Draws the weights of modules by task, a panel for each layer: [tasks, heads, modules], each head's sum is 1."""
    most, panels = max(float(of_layer.max()) for of_layer in weights.values()), []
    for number, (layer, of_layer) in enumerate(weights.items()):
        heads, modules = of_layer.shape[1:]
        marks: list[Mark] = [HeatMap(of_layer.reshape(len(of_layer), -1), high=most)]
        marks += [Level(modules * head - 0.5, upright=True, dash="-") for head in range(1, heads)]
        names = tasks if number % PER_ROW == 0 else [""] * len(tasks)
        limits = (-0.5, heads * modules - 0.5)
        panels.append(Panel(marks, layer, rows=names, x_ticks={-1.0: ""}, x_limits=limits, grid=""))
    rows = [panels[first : first + PER_ROW] for first in range(0, len(panels), PER_ROW)]
    height = len(rows) * (0.5 + 0.16 * len(tasks)) + 0.2
    return chart(*rows, size=(11.0, height), name="tasks", key=Key("weight", high=most))
