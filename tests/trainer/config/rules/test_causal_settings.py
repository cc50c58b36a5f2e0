"""What a causal network goes with: its objective, its sampler, and settings that have a meaning for it."""

from typing import Any

import pytest
from pydantic import ValidationError

from tests.each import each
from trainer.config.rules.drawing import of_drawn
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.experiment.forecast.sampling import sampling_spec
from trainer.flow import sampler

TOKENS = {"kind": "causal_transition", "head": {"kind": "euler", "steps": 2}}
RINGS = {"source": {"kind": "toy", "name": "rings", "held_out": 5}}
MODEL = {"kind": "causal_transition", "hidden": 16}
LINEAR = {"objective": {"process": "linear"}}


def configuration(**sections: Any) -> RunConfig:
    document = {
        "run": {"dir": "unused"},
        "data": {"kind": "toy"},
        "model": MODEL,
        "sample": {"kind": "points", "sampler": TOKENS},
        "optim": {"steps": 1, "global_batch": 8},
    }
    return RunConfig.model_validate({**document, **sections})


@each(
    ("sections", "message"),
    [
        (
            {"flow": {"objective": {"kind": "regression"}}},
            r"flow\.objective\.kind: regression asks for .*; use causal_transition",
        ),
        (
            {"model": {"kind": "mlp"}, "sample": {}, "flow": {"objective": {"kind": "causal_transition"}}},
            r"flow\.objective\.kind: causal_transition trains a head, which a mlp model lacks; use model\.kind causal",
        ),
        (
            {"sample": {"kind": "points"}},
            r"sample\.sampler\.kind: heun .*does not go with flow\.objective\.kind causal_transition .*; "
            r"use sample\.sampler\.kind causal_transition",
        ),
        (
            {"model": {"kind": "mlp"}},
            r"sample\.sampler\.kind: causal_transition .*does not go with flow\.objective\.kind regression .*; "
            r"use sample\.sampler\.kind euler",
        ),
        (
            {"flow": {"path": {"kind": "trigonometric"}}},
            r"flow\.objective\.kind: causal_transition does not go with flow\.path\.kind trigonometric .*kind linear$",
        ),
        (
            {"flow": {"path": {"kind": "linear", "sigma_min": 0.1}}},
            r"causal_transition does not go with flow\.path\.kind linear \(sigma_min=0\.1\) .*flow\.path\.kind linear$",
        ),
        (
            {"flow": {"target": {"kind": "data"}}},
            r"causal_transition does not go with flow\.target\.kind data .*flow\.target\.kind velocity",
        ),
        (
            {"flow": {"coupling": {"kind": "minibatch_ot"}}},
            r"causal_transition does not go with flow\.coupling\.kind minibatch_ot .*process linear keeps the pairs.*"
            r"flow\.coupling\.kind independent",
        ),
        ({"engine": {"compile": True}}, r"engine\.compile: .*kept tokens at each call that draws; use false"),
        ({"flow": {"time": {"kind": "grid", "steps": 2}}}, r"flow\.time\.kind: grid .*; use uniform"),
        ({"flow": RINGS}, r"flow\.source\.kind: toy .*; use flow\.objective\.process=linear, or remove flow\.source"),
        (
            {"sample": {"kind": "points", "sampler": {**TOKENS, "tokens": 6}}},
            r"sample\.sampler\.tokens: 6, but model\.transitions 2 of 2 tokens are 4; leave it out",
        ),
        (
            {"data": {"kind": "digits"}, "sample": {"sampler": TOKENS}, "model": {**MODEL, "patch_size": 3}},
            r"model\.patch_size: 3 does not divide images of 8 pixels; use one of 1, 2, 4, 8",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_partners(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_layout(configuration(**sections), 1)


@each("flow", [{}, {**LINEAR, "coupling": {"kind": "minibatch_ot"}}, {**LINEAR, **RINGS}, {"data_scale": 2.0}], ids=str)
def test_what_has_a_meaning_is_accepted(flow: dict[str, Any]) -> None:
    config = configuration(flow=flow)
    plan_layout(config, 1)
    assert config.flow is not None
    assert config.flow.objective.kind == "causal_transition", "the only objective of the network is its default"


def test_the_number_of_tokens_follows_the_model_and_is_kept() -> None:
    config = configuration(model={**MODEL, "transitions": 3})
    assert config.sample.sampler.tokens == 6  # pyright: ignore[reportAttributeAccessIssue]
    again = RunConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    spec = sampling_spec(
        config,
        plan_layout(config, 1),
        sampler=config.sample.sampler,  # pyright: ignore[reportAttributeAccessIssue]
        guidance=1.0,
        examples=4,
        ranks_per_node=1,
    )
    assert spec.program.calls == 6  # pyright: ignore[reportAttributeAccessIssue]


def test_a_mixture_would_look_ahead() -> None:
    with pytest.raises(ValidationError, match=r"moe: .*tokens that come later included; remove the section"):
        configuration(moe={"num_experts": 2, "top_k": 1, "expert_hidden": 8})


def test_searched_times_are_not_for_a_head() -> None:
    searched = {**TOKENS, "head": {"kind": "euler", "times": "steps.json"}}
    with pytest.raises(ValidationError, match=r"head\.times: steps\.json holds times that were searched for the field"):
        configuration(sample={"kind": "points", "sampler": searched})


def test_solvers_cannot_draw_from_it_afterwards() -> None:
    with pytest.raises(ValueError, match=r"^sample\.sampler\.kind: euler .*; use sample\.sampler\.kind causal_"):
        refuse(of_drawn(configuration(), sampler.Euler(), guidance=1.0))
