"""Warnings about settings that are allowed but probably a mistake."""

from collections.abc import Iterator
from itertools import chain, islice, starmap

from trainer.config.layout import Layout
from trainer.config.rules.drawing import learns_steps
from trainer.config.rules.objection import message
from trainer.config.rules.partners import advice
from trainer.config.rules.parts import composition_of
from trainer.config.run import RunConfig
from trainer.config.task import AdjointMatchingConfig
from trainer.data import WebDatasetConfig, parts_of
from trainer.flow.sampler.protocol import StepsFile

Cautions = Iterator[tuple[str, str, str]]
OUTCOMES = {"evaluate": "nothing is evaluated", "sample": "nothing is drawn"}


def cautions(config: RunConfig, layout: Layout) -> list[str]:
    """One line for each setting that is legal and likely a mistake."""
    tars = (part for part in parts_of(config.data) if isinstance(part, WebDatasetConfig))
    streams = (line for part in tars if (line := part.caution(layout.data_parallel)) is not None)
    return [
        *starmap(message, chain(of_composition(config), of_stale_grids(config), of_guidance(config))),
        *islice(streams, 1),
        *starmap(message, chain(of_end(config), of_placement(config, layout))),
    ]


def of_composition(config: RunConfig) -> Cautions:
    """Warns of parts of a flow that go together but work badly; only the first reason."""
    composition = composition_of(config)
    if composition is not None:
        yield from islice(advice(composition), 1)


def of_stale_grids(config: RunConfig) -> Cautions:
    """Warns of grids that were searched for the weights of another run, or for earlier ones."""
    chosen = getattr(config.sample, "sampler", None)
    path = None if chosen is None else chosen.steps_file
    if path is not None and not learns_steps(config):
        made_by = StepsFile.read(path).made_by.get("run", "another run")
        problem = f"{path} was searched for the weights that {made_by} had, and this run trains others"
        remedy = "search again when it is trained, unless it is meant to learn these steps"
        yield "sample.sampler.times", problem, remedy


def of_guidance(config: RunConfig) -> Cautions:
    """Warns of samples under another guidance than that of the tilted flow."""
    task, drawn = config.task, getattr(config.sample, "guidance", None)
    if not isinstance(task, AdjointMatchingConfig) or drawn in (None, task.guidance) or not config.data.num_classes:
        return
    problem = f"{drawn:g} draws from another flow than the tilted one, whose guidance is {task.guidance:g}"
    yield "sample.guidance", problem, f"set sample.guidance={task.guidance:g}, or task.guidance={drawn:g}"


def of_end(config: RunConfig) -> Cautions:
    """Warns of settings that have no effect because the run ends earlier."""
    steps, lost = config.optim.steps, []
    outside = [step for step in config.trace.steps if not 1 <= step <= steps]
    if outside:
        lost.append(f"trace.steps {', '.join(map(str, outside))} (not recorded)")
    for name, outcome in OUTCOMES.items():
        section = getattr(config, name)
        if "every" in section.model_fields_set and section.every is not None and section.every > steps:
            lost.append(f"{name}.every {section.every} ({outcome})")
    if lost:
        remedy = "a share of the run, such as every=1/2, and trace.steps=[-2,-1] follow its end"
        yield "optim.steps", f"{steps} ends before {'; '.join(lost)}", remedy


def of_placement(config: RunConfig, layout: Layout) -> Cautions:
    """Warns of a choice among replicas without any, and of placements that were made for another dispatch."""
    moe, placement = config.moe, layout.placement
    if moe is None or placement is None:
        return
    if moe.replicas != "even" and not placement.has_replicas:
        problem = f"{moe.replicas} chooses among replicas, and the placement has none"
        yield "moe.replicas", problem, "place with more --slots-per-rank than experts / ranks, or leave it out"
    if moe.dispatch == "capped" and moe.placement is not None:
        problem = (
            f"{moe.placement} changes nothing in what capped dispatch sends, as much from every rank to every rank "
            "under any placement"
        )
        yield "moe.placement", problem, "leave it out, or set moe.dispatch=home"
    if moe.dispatch != "capped" and placement.dispatch != moe.dispatch:
        yield (
            "moe.placement",
            f"{moe.placement} was made for {placement.dispatch} dispatch, and what it saves there says nothing about "
            f"{moe.dispatch}",
            f"place with --objective {moe.dispatch}, or set moe.dispatch={placement.dispatch}",
        )
