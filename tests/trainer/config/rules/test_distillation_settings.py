"""What a distillation refuses: other paths and targets, teachers of other states, source points, segments."""

from typing import Any

import pytest

from tests.each import each
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout
from trainer.config.rules.tasks import of_teacher
from trainer.config.run import RunConfig
from trainer.experiment.forecast.unknown import without_formula
from trainer.flow import sampler

POINTS: dict[str, Any] = {
    "run": {"dir": "runs/any"},
    "model": {"kind": "mlp"},
    "optim": {"steps": 1, "global_batch": 8},
}
IMAGES: dict[str, Any] = {**POINTS, "model": {"kind": "dit", "hidden": 16, "num_heads": 2}}
MATCHING: dict[str, Any] = {"kind": "velocity_distillation", "teacher": {"run": "runs/teacher"}}
CONSISTENCY = {**MATCHING, "kind": "consistency_distillation"}
RENOISE: dict[str, Any] = {"sample": {"sampler": {"kind": "renoise"}}}
both = pytest.mark.parametrize("chosen", [MATCHING, CONSISTENCY], ids=lambda one: one["kind"])


def config(document: dict[str, Any] = POINTS, **flow: Any) -> RunConfig:
    return RunConfig.model_validate({**document, "flow": flow})


@both
def test_only_straight_paths_and_velocities_are_distilled(chosen: dict[str, Any]) -> None:
    assert plan_layout(config(objective=chosen), 1).world_size == 1
    assert plan_layout(config(objective=chosen, path={"kind": "linear", "sigma_min": 1e-4}), 1).world_size == 1
    kind = chosen["kind"]
    for flow, company, partner in (
        ({"path": {"kind": "trigonometric"}}, "flow.path.kind trigonometric", "or flow.path.kind linear"),
        ({"target": {"kind": "data"}}, "flow.target.kind data", "or flow.target.kind velocity"),
    ):
        with pytest.raises(ValueError, match=rf"^flow\.objective\.kind: {kind}.* does not go with ") as refusal:
            plan_layout(config(objective=chosen, **flow), 1)
        assert company in str(refusal.value)
        assert str(refusal.value).endswith(partner)
        assert "use flow.objective.kind regression" in str(refusal.value)


@both
def test_no_formula_is_said_to_know_their_calls(chosen: dict[str, Any]) -> None:
    said = without_formula(config(objective=chosen))
    assert said is not None
    assert said.startswith(f"flow.objective.kind: {chosen['kind']} calls the network several times")
    assert said.endswith("record such a run with trace.steps")
    assert "\n" not in said


@both
def test_a_network_of_segments_is_refused(chosen: dict[str, Any]) -> None:
    blockwise = {
        **POINTS,
        "model": {"kind": "blockwise_mlp", "segments": 2},
        "sample": {"sampler": {"kind": "segmented", "segments": 2}},
    }
    with pytest.raises(ValueError, match=r"^flow\.objective\.kind: .*model\.segments 2; use model\.kind=dit or mlp$"):
        plan_layout(config(blockwise, objective=chosen), 1)


def test_normal_noise_is_drawn_only_where_paths_start_at_it() -> None:
    source = {"kind": "toy", "name": "rings", "seed": 1}
    plan_layout(config(objective={**MATCHING, "weight_distribution": 0}, source=source), 1)
    with pytest.raises(ValueError, match=r"^flow\.objective\.weight_distribution: 1 .*; use 0$"):
        plan_layout(config(objective=MATCHING, source=source), 1)
    with pytest.raises(ValueError, match=r"^sample\.sampler\.kind: renoise .*; use euler, heun or dopri5$"):
        plan_layout(config({**POINTS, **RENOISE}, source=source), 1)
    with pytest.raises(ValueError, match=r"^sample\.sampler\.kind: renoise .*; use euler, heun or dopri5$"):
        refuse(of_drawn(config(source=source), sampler.Renoise(), 1.0))
    with pytest.raises(ValueError, match=r"^sample\.sampler\.kind: renoise does not go with flow\.coupling\.kind mini"):
        plan_layout(config({**POINTS, **RENOISE}, coupling={"kind": "minibatch_ot"}), 1)


@each(
    ("student", "teacher", "said"),
    [
        (POINTS, {**IMAGES, "flow": {}}, r"has states of shape \[1, 8, 8\], and this run \[2\]"),
        (POINTS, {**POINTS, "flow": {"data_scale": 2.0}}, r"has flow\.data_scale 2\.0, and this run 1\.0"),
        (POINTS, {**POINTS, "flow": {"path": {"kind": "trigonometric"}}}, r"has flow\.path \{'kind': 'trigonometric'"),
        (POINTS, {**POINTS, "data": {"kind": "toy", "classes": True}}, "has classes 2, and this run 0"),
        (
            POINTS,
            {**POINTS, "flow": {"source": {"kind": "toy", "name": "rings", "seed": 1}}},
            r"has a source \{.*\}, and this run None",
        ),
        (
            IMAGES,
            {**IMAGES, "flow": {"context": {"kind": "inpainting"}}},
            r"has flow\.context \{.*\}, and this run None",
        ),
        (
            IMAGES,
            {
                **IMAGES,
                "flow": {"latent": {"path": "latents", "shape": (1, 8, 8), "image_shape": (1, 16, 16), "digest": "ab"}},
            },
            r"has flow\.latent ab, and this run None",
        ),
        (POINTS, {**POINTS, "model": {"kind": "gpt"}}, r"follows no flow \(gpt\); use the run of a flow"),
    ],
)
def test_a_teacher_of_other_states_is_refused(student: dict[str, Any], teacher: dict[str, Any], said: str) -> None:
    run = config(student, objective=MATCHING)
    with pytest.raises(ValueError, match=rf"^flow\.objective\.teacher\.run: runs/teacher {said}"):
        refuse(of_teacher(run, RunConfig.model_validate(teacher), 1))
    refuse(of_teacher(run, config(student), 1))


def test_guidance_needs_a_teacher_that_knows_no_class() -> None:
    labelled = {**POINTS, "data": {"kind": "toy", "classes": True}}
    told = {**labelled, "model": {"kind": "mlp", "label_dropout": 0.0}}
    for guidance, chosen in (([1.0, 2.0], MATCHING), (2.0, CONSISTENCY)):
        run = config(labelled, objective={**chosen, "guidance": guidance})
        with pytest.raises(
            ValueError, match=r"^flow\.objective\.guidance: .*; use 1, or a teacher with a model\.label"
        ):
            refuse(of_teacher(run, config(told), 1))
        refuse(of_teacher(run, config(labelled), 1))


def test_ranks_that_share_the_experts_of_a_teacher_share_them_as_it_did() -> None:
    mixture = {**IMAGES, "moe": {"num_experts": 4, "expert_hidden": 16}, "parallel": {"expert": 2}}
    run = config(IMAGES, objective=MATCHING)
    with pytest.raises(ValueError, match=r"^parallel\.expert: 1, .* shared by 2 ranks of the same groups; use 2$"):
        refuse(of_teacher(run, config(mixture), 4))
    refuse(of_teacher(run, config(mixture), 1))
    refuse(of_teacher(config(mixture, objective=MATCHING), config(mixture), 4))
