"""Runs whose states have a label beside the image: what does not go with them."""

from typing import Any

import pytest

from trainer.config.file import resolve
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout
from trainer.config.rules.states import of_pictures_alone
from trainer.config.run import RunConfig

SYMMETRIC: dict[str, Any] = {
    "run": {"dir": "unused"},
    "data": {"kind": "digits"},
    "model": {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2, "label_dropout": 0.0},
    "flow": {"coupling": {"kind": "symmetric"}},
    "optim": {"steps": 1, "global_batch": 4},
    "sample": {"guidance": 1.0},
}


def config(**sections: dict[str, Any]) -> RunConfig:
    document = {name: {**SYMMETRIC.get(name, {}), **sections.get(name, {})} for name in {*SYMMETRIC, *sections}}
    return RunConfig.model_validate(resolve(document).document)


def test_a_state_has_the_planes_of_the_code_beside_the_image() -> None:
    scalar, planes = config(), config(flow={"coupling": {"kind": "symmetric", "label": {"kind": "one_hot"}}})
    assert (scalar.example_shape, scalar.state_shape, scalar.num_labels) == ((1, 8, 8), (2, 8, 8), 0)
    assert planes.state_shape == (11, 8, 8)
    plan_layout(scalar, 1)
    plain = config(flow={"coupling": {"kind": "independent"}})
    assert (plain.state_shape, plain.num_labels) == ((1, 8, 8), 10)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"label_dropout": 0.1}}, "model.label_dropout: 0.1 hides labels, .*; use 0"),
        ({"sample": {"guidance": 1.5}}, "sample.guidance: 1.5 asks for a network without a class, .*; use 1"),
        ({"flow": {**SYMMETRIC["flow"], "source": {"kind": "digits"}}}, "flow.source: symmetric begins at noise"),
        (
            {"flow": {**SYMMETRIC["flow"], "path": {"kind": "trigonometric"}}},
            r"flow.coupling.kind: symmetric does not go with flow.path.kind trigonometric .*or flow.path.kind linear",
        ),
        (
            {"flow": {**SYMMETRIC["flow"], "target": {"kind": "data"}}},
            r"flow.coupling.kind: symmetric does not go with flow.target.kind data .*or flow.target.kind velocity",
        ),
        (
            {"flow": {**SYMMETRIC["flow"], "objective": {"kind": "monge_map"}}},
            r"flow.coupling.kind: symmetric does not go with flow.objective.kind monge_map .*regression",
        ),
        (
            {"sample": {"guidance": 1.0, "sampler": {"kind": "renoise"}}},
            r"flow.coupling.kind: symmetric does not go with sample.sampler.kind renoise .*euler, heun or dopri5",
        ),
    ],
)
def test_what_does_not_go_with_labels_in_states_is_refused(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_layout(config(**sections), 1)


def test_data_without_classes_have_no_label_to_put_into_a_state() -> None:
    model = {"kind": "mlp", "hidden": 16, "num_layers": 1, "label_dropout": 0.0}
    document = {**SYMMETRIC, "data": {"kind": "toy"}, "model": model}
    with pytest.raises(
        ValueError, match=r"flow\.coupling\.kind: symmetric puts classes into states, and toy data have 0"
    ):
        plan_layout(RunConfig.model_validate(resolve(document).document), 1)


def test_verbs_that_take_states_for_pictures_refuse_such_runs() -> None:
    refuse(of_pictures_alone(config(flow={"coupling": {"kind": "independent"}}), "edit"))
    with pytest.raises(ValueError, match="run_dir: its states have a label beside the picture, which edit would take"):
        refuse(of_pictures_alone(config(), "edit"))
