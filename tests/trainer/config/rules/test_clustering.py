"""Clustering: what does not go with it, in one line each."""

from typing import Any

import pytest

from tests.each import each
from trainer.config.file import resolve
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.spec import trace_spec

CLUSTERS: dict[str, Any] = {
    "run": {"dir": "unused"},
    "data": {"kind": "digits"},
    "model": {"kind": "prototypes", "hidden": 16, "num_layers": 1, "clusters": 4},
    "task": {"labels": {"neighbours": 3}},
    "optim": {"steps": 8, "global_batch": 8},
}


def config(**sections: dict[str, Any]) -> RunConfig:
    document = {name: {**CLUSTERS.get(name, {}), **sections.get(name, {})} for name in {*CLUSTERS, *sections}}
    return RunConfig.model_validate(resolve(document).document)


def test_a_network_of_prototypes_clusters_and_shows_examples() -> None:
    run = config()
    assert (run.task.kind, run.sample.kind, run.flow) == ("clustering", "examples", None)
    plan_layout(run, 2)


@each(
    ("sections", "said"),
    [
        (
            {"model": {"clusters": 5}},
            "optim.global_batch: 8, so that a plan labels the 8 examples of 1 steps, fewer than 2 for each of "
            "model.clusters 5; use 10 or more",
        ),
        (
            {"optim": {"global_batch": 512}, "task": {"steps_of_a_plan": 4, "memory": 8}},
            "optim.global_batch: 512, so that a plan labels the 18,432 examples of 36 steps, and 16,384 are the most; "
            "use fewer, fewer task.steps_of_a_plan, or less task.memory",
        ),
        (
            {"task": {"labels": {"neighbours": 8}}},
            "task.labels.neighbours: 8 are no fewer than the 8 examples of a plan; use 1, or a larger global_batch",
        ),
        ({"task": {"views": {"shift": 9}}}, "task.views.shift: 9 pixels are too large a shift for an image of 8"),
        ({"optim": {"steps": 9}, "task": {"steps_of_a_plan": 2}}, "optim.steps: 9 is not a multiple of the 2 steps"),
        ({"data": {"kind": "toy"}}, "task.views.shift: 1 moves images, and these examples have shape \\[2\\]; use 0"),
        ({"parallel": {"tensor": 2}}, "parallel.tensor: 2 ranks share attention heads, which prototypes lacks; use 1"),
    ],
)
def test_what_no_plan_can_label_is_refused(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan_layout(config(**sections), 2)


@each(
    "sections",
    [
        {"task": {"labels": {"kind": "unbalanced", "gamma": 0}}},
        {"task": {"labels": {"kind": "uniform", "epsilon": -0.1}}},
        {"task": {"labels": {"kind": "partial", "first_mass": 1}}},
        {"model": {"clusters": 1}},
        {"task": {"labels": {"kind": "uniform", "gamma": 1}}},
        {"flow": {}},
        {"moe": {"num_experts": 2, "top_k": 1, "expert_hidden": 4}},
        {"sample": {"kind": "images"}},
    ],
)
def test_settings_that_are_none_are_refused(sections: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"gamma|epsilon|first_mass|clusters|flow|moe|sample"):
        config(**sections)


def test_the_formula_of_collectives_is_refused_by_name() -> None:
    run = config()
    with pytest.raises(ValueError, match=r"task\.kind: clustering gathers what it labels"):
        trace_spec(run, plan_layout(run, 2), ranks_per_node=2)
