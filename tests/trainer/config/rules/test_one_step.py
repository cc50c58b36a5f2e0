"""What a map of one step goes with."""

from typing import Any

import pytest

from tests.each import each
from trainer.config.file import resolve
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig

MAP: dict[str, Any] = {"objective": {"kind": "monge_map"}}
GAP: dict[str, Any] = {"objective": {"monge_gap": {"weight": 0.5}}}
ONLY_STEP = {"kind": "euler", "times": [0, 1]}
LATENT = {"path": "latents", "shape": (2, 2, 2), "image_shape": (1, 8, 8), "digest": "0"}


def check(flow: dict[str, Any], sampler: dict[str, Any] | None = None, ranks: int = 1, **sections: Any) -> None:
    document: dict[str, Any] = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp"},
        "data": {"kind": "toy", "held_out": 10},
        "optim": {"steps": 1, "global_batch": 8},
        "flow": flow,
        "sample": {"sampler": sampler or ONLY_STEP},
        **sections,
    }
    plan_layout(RunConfig.model_validate(resolve(document).document), ranks)


@each(
    "flow",
    [
        {},
        {"target": {"kind": "data"}},
        {"time": {"kind": "grid", "steps": 1}},
        {"source": {"kind": "toy", "name": "rings", "held_out": 10}},
        {"path": {"kind": "linear", "sigma_min": 0.1}},
    ],
    ids=str,
)
def test_a_map_goes_with_the_straight_path_from_any_source(flow):
    check(MAP | flow)


def test_a_map_of_images_and_of_latents():
    images = {"data": {"kind": "digits"}, "model": {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2}}
    check(MAP, **images)
    check(MAP | {"latent": LATENT}, **images)


@pytest.mark.parametrize(
    "flow",
    [{"coupling": {"kind": "gibbs_weighted"}}, {"coupling": {"kind": "minibatch_ot"}}, {"target": {"kind": "data"}}],
    ids=str,
)
def test_a_gap_goes_with_any_coupling_and_sampler(flow):
    check(GAP | flow, {"kind": "heun", "steps": 4})


@each("method", [MAP, GAP], ids=["map", "gap"])
@each(
    "part",
    [
        {"path": {"kind": "trigonometric"}},
        {"path": {"kind": "variance_preserving"}},
        {"path": {"kind": "stochastic_interpolant"}},
        {"target": {"kind": "noise"}},
        {"target": {"kind": "score"}},
    ],
    ids=str,
)
def test_without_a_map_to_the_data_there_is_no_gap(method, part):
    with pytest.raises(
        ValueError, match=r"^flow\.objective\.kind: .* map of one step, .* use flow\.objective\.kind reg"
    ):
        check(method | part)


@each("kind", ["minibatch_ot", "assignment", "gibbs_weighted", "knn"])
def test_a_map_has_no_use_for_pairs(kind):
    expected = r"^flow\.objective\.kind: monge_map does not go with .* two sets.* or flow\.coupling\.kind independent$"
    with pytest.raises(ValueError, match=expected):
        check(MAP | {"coupling": {"kind": kind}})


@each(
    ("sampler", "used"),
    [
        ({"kind": "euler", "steps": 20}, "euler with 20 steps"),
        ({"kind": "euler", "steps": 1}, "euler with 1 step"),
        ({"kind": "euler", "times": [0, 0.5, 1]}, "euler with 2 steps"),
        ({"kind": "heun", "times": [0, 1]}, "heun with 1 step"),
        ({"kind": "dopri5"}, "dopri5"),
    ],
    ids=str,
)
def test_a_map_is_sampled_by_the_only_step_that_it_has(sampler, used):
    remedy = r"use \{kind: euler, times: \[0, 1\]\}$"
    with pytest.raises(ValueError, match=rf"^sample\.sampler: {used} can ask the network after t = 0, .*; {remedy}"):
        check(MAP, sampler)


def test_times_without_effect_are_refused():
    with pytest.raises(ValueError, match=r"^flow\.time\.kind: logit_normal has no effect.*; remove it$"):
        check(MAP | {"time": {"kind": "logit_normal"}})


@pytest.mark.parametrize(("method", "field"), [(MAP, "kind: monge_map"), (GAP, "monge_gap")], ids=["map", "gap"])
def test_examples_without_a_common_map_are_refused(method, field):
    digits = {"data": {"kind": "digits"}, "model": {"kind": "dit", "hidden": 16, "num_layers": 1, "num_heads": 2}}
    with pytest.raises(ValueError, match=rf"^flow\.objective\.{field}: .* flow\.context inpainting .*; remove one"):
        check(method | {"context": {"kind": "inpainting"}}, **digits)
    with pytest.raises(ValueError, match=rf"^flow\.objective\.{field}: in a micro batch of 1 .* optim\.micro_batch"):
        check(method, optim={"steps": 1, "global_batch": 8, "micro_batch": 1})


def test_a_step_across_segments_is_refused():
    segmented = {"kind": "segmented", "segments": 3, "within": {"kind": "euler", "steps": 2}}
    blocks = {"kind": "blockwise_mlp", "segments": 3, "hidden": 8}
    with pytest.raises(ValueError, match=r"^flow\.objective\.monge_gap: one step .* segments .* use mlp or dit$"):
        check(GAP, segmented, model=blocks)
