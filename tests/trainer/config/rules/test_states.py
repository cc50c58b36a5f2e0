"""Runs whose states have a label beside the image, or are of letters: what does not go with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.each import each
from trainer.config.file import resolve
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout
from trainer.config.rules.states import of_pictures_alone
from trainer.config.run import RunConfig
from trainer.data import write_shards
from trainer.data.shard.writer import Examples

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


@each(
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


@each(
    ("label", "channels", "message"),
    [
        ({"kind": "channels"}, 2, r"flow.coupling.label.num: 1, and shards data have 2 channels .*; use 2"),
        ({"kind": "channels"}, 0, r"flow.coupling.label.num: 1, and shards data have none .*; write shards with"),
        ({"kind": "one_hot"}, 1, r"flow.coupling.label.kind: one_hot codes classes, .*; use channels"),
        ({"kind": "channels", "classes": {"kind": "scalar"}}, 1, r"symmetric puts classes into states, .* have 0"),
        ({"kind": "channels"}, 1, None),
    ],
)
def test_masks_are_those_of_the_data(tmp_path: Path, label: dict[str, Any], channels: int, message: str | None) -> None:
    context = np.zeros((20, channels, 8, 8), np.float32) if channels else None
    write_shards(tmp_path / "s", [Examples(np.zeros((20, 1, 8, 8), np.float32), None, context)])
    data = {"kind": "shards", "path": str(tmp_path / "s"), "held_out": 5}
    document = {**SYMMETRIC, "data": data, "flow": {"coupling": {"kind": "symmetric", "label": label}}}
    masked = RunConfig.model_validate(resolve(document).document)
    if message is None:
        plan_layout(masked, 1)
        assert (masked.state_shape, masked.context_shape) == ((2, 8, 8), None)
        return
    with pytest.raises(ValueError, match=message):
        plan_layout(masked, 1)


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


LETTERS: dict[str, Any] = {
    "run": {"dir": "unused"},
    "model": {"kind": "dit", "patch_size": 1, "hidden": 16, "num_layers": 1, "num_heads": 2},
    "flow": {"path": {"kind": "gumbel_softmax"}, "target": {"kind": "token"}, "objective": {"kind": "cross_entropy"}},
    "optim": {"steps": 1, "global_batch": 4},
    "sample": {"kind": "sequences"},
}


def of_letters(folder: Path, **sections: Any) -> RunConfig:
    path = folder / "sequences.txt"
    path.write_text("CAG\t5\nGAU\n")
    document = {**LETTERS, "data": {"kind": "sequences", "path": path, "held_out": 1}, **sections}
    return RunConfig.model_validate(resolve(document).document)


def test_letters_are_states_of_a_channel_each(tmp_path: Path) -> None:
    found = of_letters(tmp_path)
    assert (found.alphabet, found.state_shape) == ("ACGU", (4, 1, 3))
    plan_layout(found, 1)
    assert config(flow={"coupling": {"kind": "independent"}}).alphabet == ""


@each(
    ("flow", "message"),
    [
        (
            {"target": {"kind": "velocity"}, "objective": {"kind": "regression"}},
            r"flow\.path\.kind: gumbel_softmax does not go with flow\.target\.kind velocity .*flow\.target\.kind token",
        ),
        (
            {"objective": {"kind": "regression"}},
            r"flow\.target\.kind: token does not go with flow\.objective\.kind regression .*or cross_entropy",
        ),
        (
            {"path": {"kind": "linear"}, "target": {"kind": "data"}},
            r"flow\.objective\.kind: cross_entropy does not go with flow\.target\.kind data .*flow\.target\.kind token",
        ),
        (
            {"path": {"kind": "stochastic_interpolant"}},
            r"flow\.target\.kind: token does not go with flow\.path\.kind stochastic_interpolant .*gumbel_softmax",
        ),
        ({"source": {"kind": "digits"}}, r"flow\.source: it is of images or points, and the data are sequences"),
        ({"data_scale": 2.0}, r"flow\.data_scale: 2 scales states, and flow\.target\.kind token .*; use 1"),
    ],
)
def test_what_does_not_go_with_letters_is_refused(tmp_path: Path, flow: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_layout(of_letters(tmp_path, flow={**LETTERS["flow"], **flow}), 1)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("renoise", r"sample\.sampler\.kind: renoise does not go with flow\.path\.kind gumbel_softmax .*euler"),
        ("euler_maruyama", r"sample\.sampler\.kind: euler_maruyama does not go with .*needs the score"),
    ],
)
def test_samplers_that_draw_normal_noise_are_refused(tmp_path: Path, sampler: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_layout(of_letters(tmp_path, sample={"kind": "sequences", "sampler": {"kind": sampler}}), 1)


@each("chosen", ["first_order", "heun", "dopri5", "segmented"])
def test_other_samplers_draw_letters(tmp_path: Path, chosen: str) -> None:
    plan_layout(of_letters(tmp_path, sample={"kind": "sequences", "sampler": {"kind": chosen}}), 1)


def test_the_straight_path_and_regression_are_of_letters_too(tmp_path: Path) -> None:
    flow = {"target": {"kind": "token"}, "objective": {"kind": "regression", "space": "data"}}
    plan_layout(of_letters(tmp_path, flow=flow), 1)
    plan_layout(of_letters(tmp_path, flow={}), 1)


def test_letters_need_sequences_and_sequences_their_pictures(tmp_path: Path) -> None:
    digits = {**LETTERS, "data": {"kind": "digits"}, "sample": {}}
    with pytest.raises(ValueError, match=r"flow\.path\.kind: gumbel_softmax is of one-hot letters, and digits data"):
        plan_layout(RunConfig.model_validate(resolve(digits).document), 1)
    with pytest.raises(ValueError, match=r"sample\.kind: images, and the data are of sequences; use sequences"):
        plan_layout(of_letters(tmp_path, sample={"kind": "images", "guidance": 1.0}), 1)
    plain = {**digits, "flow": {}, "sample": {"kind": "sequences"}}
    with pytest.raises(ValueError, match=r"sample\.kind: sequences, and the data are no sequences but digits"):
        plan_layout(RunConfig.model_validate(resolve(plain).document), 1)


def test_verbs_for_pictures_and_points_refuse_letters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run_dir: its states are of letters, and steps is for pictures and points"):
        refuse(of_pictures_alone(of_letters(tmp_path), "steps"))


def test_letters_are_guided_where_logits_are_predicted(tmp_path: Path) -> None:
    control = {"kind": "straight_through", "reward": {"class": "tests.trainer.flow.test_straight_through:Count"}}
    sample = {"kind": "sequences", "controls": [control]}
    plan_layout(of_letters(tmp_path, sample=sample), 1)
    with pytest.raises(
        ValueError, match=r"sample\.controls: \[straight_through\] does not go with flow\.target\.kind velocity .*token"
    ):
        plan_layout(of_letters(tmp_path, sample=sample, flow={}), 1)


REACTIONS: dict[str, Any] = {
    "run": {"dir": "unused"},
    "model": {"kind": "equivariant"},
    "data": {"kind": "reactions", "held_out": 9},
    "flow": {"coupling": {"kind": "ends"}},
    "optim": {"steps": 1, "global_batch": 4},
}


def of_reactions(**sections: Any) -> RunConfig:
    flow = {**REACTIONS["flow"], **sections.pop("flow", {})}
    return RunConfig.model_validate(resolve({**REACTIONS, **sections, "flow": flow}).document)


@each(
    ("flow", "message"),
    [
        ({"coupling": {"kind": "independent"}}, r"flow\.coupling\.kind: independent moves the atoms .*; use ends"),
        ({"target": {"kind": "noise"}}, r"flow\.target\.kind: noise is no vector of an atom, .*; use data or velocity"),
        ({"data_scale": 2}, r"flow\.data_scale: 2 scales states, and the ends beside them are in angstrom; use 1"),
        (
            {"path": {"kind": "trigonometric"}},
            r"flow\.coupling\.kind: ends does not go with .* flow\.path\.kind linear",
        ),
        ({"path": {"sigma_min": 0.1}}, r"flow\.coupling\.kind: ends does not go with flow\.path\.kind linear \(sigma"),
        ({"objective": {"kind": "monge_map"}}, r"flow\.coupling\.kind: ends does not go with flow\.objective\.kind"),
    ],
)
def test_what_would_move_atoms_that_are_not_free_is_refused(flow: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_layout(of_reactions(flow=flow), 1)


def test_reactions_need_ends_and_ends_reactions() -> None:
    plan_layout(of_reactions(), 1)
    plan_layout(of_reactions(flow={"objective": {"spread": {"draws": 2}}}), 1)
    with pytest.raises(
        ValueError, match=r"sample\.sampler\.kind renoise .*use sample\.sampler\.kind euler, heun or dopri5"
    ):
        plan_layout(of_reactions(sample={"kind": "reactions", "sampler": {"kind": "renoise", "steps": 2}}), 1)
    digits = {
        "run": {"dir": "unused"},
        "model": {},
        "optim": {"steps": 1, "global_batch": 4},
        "flow": {"coupling": {"kind": "ends"}},
    }
    with pytest.raises(ValueError, match=r"flow\.coupling\.kind: ends begins at atoms of a reaction, and digits data"):
        plan_layout(RunConfig.model_validate(digits), 1)
    with pytest.raises(ValueError, match=r"data\.kind: digits is not for a equivariant model; use reactions"):
        of_reactions(data={"kind": "digits"})


def test_further_source_points_are_refused_where_pairs_are_matched_or_given() -> None:
    spread = {"objective": {"spread": {"draws": 2}}}
    digits: dict[str, Any] = {"run": {"dir": "unused"}, "optim": {"steps": 1, "global_batch": 4}, "model": {}}
    plan_layout(RunConfig.model_validate({**digits, "flow": spread}), 1)
    for flow, message in (
        ({"coupling": {"kind": "minibatch_ot"}}, r"flow\.objective\.kind: .* does not go with flow\.coupling\.kind"),
        ({"source": {"kind": "digits"}}, r"flow\.objective\.spread: it draws further source points, and flow\.source"),
        (
            {"path": {"kind": "stochastic_interpolant"}, "target": {"kind": "velocity_and_noise"}},
            r"flow\.objective\.kind",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            plan_layout(RunConfig.model_validate({**digits, "flow": {**spread, **flow}}), 1)
