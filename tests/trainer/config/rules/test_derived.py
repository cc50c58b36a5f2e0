"""What follows from a run once it is read: kinds, shapes, and what verbs, formulas and teachers say of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.each import each
from tests.trainer.config.rules.runs import changed, write_files
from tests.trainer.model.blockwise_networks import stirred
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout
from trainer.config.rules.states import of_pictures_alone
from trainer.config.rules.tasks import of_teacher
from trainer.config.run import RunConfig
from trainer.experiment.forecast.sampling import sampling_spec
from trainer.experiment.forecast.spec import trace_spec
from trainer.experiment.forecast.unknown import without_formula
from trainer.flow import Condition, sampler
from trainer.flow.question import WithProjection
from trainer.model.build import build_model, inherited_shapes, parameter_shapes
from trainer.model.flops import forward_flops


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, monkeypatch)


@each(
    ("run", "changes", "expected"),
    [
        ("clusters", "", {"task.kind": "clustering", "sample.kind": "examples", "flow": None}),
        ("captions", "", {"num_labels": 1, "state_shape": (1, 8, 8)}),
        ("labels in states", "", {"example_shape": (1, 8, 8), "state_shape": (2, 8, 8), "num_labels": 0}),
        ("labels in states", "flow.coupling.label={kind: one_hot}", {"state_shape": (11, 8, 8)}),
        ("labels in states", "flow={}", {"state_shape": (1, 8, 8), "num_labels": 10, "alphabet": ""}),
        ("masks in states", "data.path=1_masks", {"state_shape": (2, 8, 8), "context_shape": None}),
        ("letters", "", {"alphabet": "ACGU", "state_shape": (4, 1, 3)}),
        ("chain", "", {"flow.objective.kind": "causal_transition"}),
        ("chain", "flow.data_scale=2", {"flow.objective.kind": "causal_transition"}),
        (
            "chain",
            "flow.source={kind: toy, name: rings, held_out: 5} & flow.objective.process=linear",
            {"flow.objective.kind": "causal_transition"},
        ),
    ],
)
def test_kinds_and_shapes_follow(run: str, changes: str, expected: dict[str, Any]) -> None:
    config = changed(run, changes)
    for name, value in expected.items():
        found: Any = config
        for part in name.split("."):
            found = getattr(found, part)
        assert found == value, name


@each(
    "changes",
    [
        "",
        "model.trunk_layers=0 & model.segment_layers=2",
        "model.teacher_features=6 & flow.objective={kind: aligned, teacher: t}",
        "model={kind: blockwise_mlp, segments: 3, hidden: 8}",
    ],
)
def test_counted_arithmetic_of_blocks_is_that_of_the_products(changes: str) -> None:
    config = changed("blockwise", changes)
    made = stirred(build_model(config, plan_layout(config, 1)))
    x, t = torch.randn(1, *config.state_shape), torch.tensor([0.5])
    asked = (WithProjection(),) if "teacher" in changes else ()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        made(x, t, Condition(torch.zeros(1, dtype=torch.int64), segment=1), *asked)
    assert counted.get_total_flops() == forward_flops(config, *asked)


def test_new_parts_of_a_network_are_named() -> None:
    config = changed("blockwise", "model.residual_layers=1 & model.init_new=[residual]")
    missing = parameter_shapes(config).keys() - inherited_shapes(config).keys()
    assert {name.partition(".")[0] for name in missing} == {"residual", "residual_output"}
    plain = changed("blockwise", "model.residual_layers=1")
    assert inherited_shapes(plain) == parameter_shapes(plain)


def test_the_number_of_tokens_follows_the_model_and_is_kept() -> None:
    config = changed("chain", "model.transitions=3")
    drawn: Any = config.sample.sampler  # pyright: ignore[reportAttributeAccessIssue]
    assert drawn.tokens == 6
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    layout = plan_layout(config, 1)
    spec: Any = sampling_spec(config, layout, sampler=drawn, guidance=1.0, examples=4, ranks_per_node=1)
    assert spec.program.calls == 6


@each(
    ("run", "changes", "verbs", "said"),
    [
        (
            "captions",
            "",
            ["edit", "restore", "steps", "pairs"],
            "its paths begin at captions, and {} begins at noise; use",
        ),
        ("labels in states", "", ["edit"], "its states have a label beside the picture, which {} would take"),
        ("letters", "", ["steps"], "its states are of letters, and {} is for pictures and points"),
        ("labels in states", "flow={}", ["edit"], None),
    ],
)
def test_verbs_that_take_states_for_pictures_refuse_others(
    run: str, changes: str, verbs: list[str], said: str | None
) -> None:
    for verb in verbs:
        if said is None:
            refuse(of_pictures_alone(changed(run, changes), verb))
        else:
            with pytest.raises(ValueError, match=f"run_dir: {said.format(verb)}"):
                refuse(of_pictures_alone(changed(run, changes), verb))


@each(
    ("run", "changes", "drawn", "said"),
    [
        ("chain", "", sampler.Euler(), r"euler .*; use sample\.sampler\.kind causal_"),
        (
            "points",
            "flow.source={kind: toy, name: rings, seed: 1}",
            sampler.Renoise(),
            "renoise .*; use euler, heun or dopri5$",
        ),
        ("points", "flow.target.kind=data", sampler.Heun(), "heun .* predicts the data alone"),
    ],
)
def test_samplers_of_a_command_are_judged_as_those_of_the_run(run: str, changes: str, drawn: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^sample\.sampler\.kind: {said}"):
        refuse(of_drawn(changed(run, changes), drawn, guidance=1.0))


def test_formulas_refuse_by_name_what_calls_or_gathers_in_its_own_way() -> None:
    clusters = changed("clusters")
    with pytest.raises(ValueError, match=r"task\.kind: clustering gathers what it labels"):
        trace_spec(clusters, plan_layout(clusters, 2), ranks_per_node=2)
    for run in ("matching", "consistency"):
        config = changed(run)
        assert config.flow is not None
        said = without_formula(config)
        assert said is not None
        assert said.startswith(f"flow.objective.kind: {config.flow.objective.kind} calls the network several times")
        assert said.endswith("record such a run with trace.steps")
        assert "\n" not in said


DIT = "model={hidden: 16, num_heads: 2} & data={kind: digits} & "


@each(
    ("student", "teacher", "said"),
    [
        ("", DIT, r"has states of shape \[1, 8, 8\], and this run \[2\]"),
        ("", "flow.data_scale=2", r"has flow\.data_scale 2\.0, and this run 1\.0"),
        ("", "flow.path.kind=trigonometric", r"has flow\.path \{'kind': 'trigonometric'"),
        ("", "data.classes=true", "has classes 2, and this run 0"),
        ("", "flow.source={kind: toy, name: rings, seed: 1}", r"has a source \{.*\}, and this run None"),
        (DIT, f"{DIT}flow.context.kind=inpainting", r"has flow\.context \{.*\}, and this run None"),
        (
            DIT,
            f"{DIT}flow.latent={{path: latents, shape: [1, 8, 8], image_shape: [1, 16, 16], digest: ab}}",
            r"has flow\.latent ab, and this run None",
        ),
        ("", "model={kind: gpt} & data={}", r"follows no flow \(gpt\); use the run of a flow"),
    ],
)
def test_a_teacher_of_other_states_is_refused(student: str, teacher: str, said: str) -> None:
    plain = changed("points", f"data.held_out=64 & {student}")
    run = changed("matching", f"data.kind=toy & data.held_out=64 & {student}")
    with pytest.raises(ValueError, match=rf"^flow\.objective\.teacher\.run: runs/teacher {said}"):
        refuse(of_teacher(run, changed("points", f"data.held_out=64 & {teacher}"), 1))
    refuse(of_teacher(run, plain, 1))


def test_guidance_needs_a_teacher_that_knows_no_class() -> None:
    told, knows = (changed("points", f"data.classes=true & {more}") for more in ("model.label_dropout=0", ""))
    for run, guidance in (("matching", [1.0, 2.0]), ("consistency", 2.0)):
        student = changed(run, f"data={{kind: toy, classes: true}} & flow.objective.guidance={guidance}")
        with pytest.raises(
            ValueError, match=r"^flow\.objective\.guidance: .*; use 1, or a teacher with a model\.label"
        ):
            refuse(of_teacher(student, told, 1))
        refuse(of_teacher(student, knows, 1))


def test_ranks_that_share_the_experts_of_a_teacher_share_them_as_it_did() -> None:
    mixture = f"{DIT}moe={{num_experts: 4, expert_hidden: 16}} & parallel.expert=2"
    student, teacher = changed("matching", DIT), changed("points", mixture)
    with pytest.raises(ValueError, match=r"^parallel\.expert: 1, .* shared by 2 ranks of the same groups; use 2$"):
        refuse(of_teacher(student, teacher, 4))
    refuse(of_teacher(student, teacher, 1))
    refuse(of_teacher(changed("matching", mixture), teacher, 4))
