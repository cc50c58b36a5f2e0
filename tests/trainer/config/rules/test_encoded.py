"""Runs whose paths begin at captions: what does not go with them."""

from typing import Any

import pytest

from tests.each import each
from trainer.config.rules.objection import refuse
from trainer.config.rules.plan import plan_layout
from trainer.config.rules.states import of_pictures_alone
from trainer.config.run import RunConfig

CAPTIONS: dict[str, Any] = {"path": "unused", "width": 6, "digest": "0"}
ENCODED: dict[str, Any] = {
    "run": {"dir": "unused"},
    "data": {"kind": "digits"},
    "model": {"kind": "encoded_dit", "hidden": 16, "num_layers": 1, "num_heads": 2},
    "flow": {"coupling": {"kind": "encoded"}, "captions": CAPTIONS},
    "optim": {"steps": 1, "global_batch": 8},
}


def encoded(**sections: dict[str, Any]) -> RunConfig:
    document = {name: {**ENCODED.get(name, {}), **sections.get(name, {})} for name in {*ENCODED, *sections}}
    return RunConfig.model_validate(document)


def test_a_run_that_begins_at_captions_reads_one_label() -> None:
    plan_layout(encoded(), 1)
    assert (encoded().num_labels, encoded().state_shape) == (1, (1, 8, 8))


@each(
    ("sections", "message"),
    [
        (
            {"model": {"kind": "dit"}},
            "flow.coupling.kind: encoded begins at what an encoder makes of captions, which a dit model lacks; use "
            "model.kind encoded_dit or encoded_mlp",
        ),
        ({"flow": {"captions": None}}, "flow.captions: null leaves nothing to begin at, .*; name a folder"),
        ({"flow": {"source": {"kind": "digits"}}}, "flow.source: encoded begins at a caption, .*; remove the section"),
        ({"flow": {"context": {"kind": "inpainting"}}}, "flow.context: encoded begins at a caption"),
        (
            {"flow": {"coupling": {"kind": "minibatch_ot"}}},
            "flow.coupling.kind: minibatch_ot does not go with flow.objective.kind encoded_source .*; use "
            "flow.coupling.kind encoded",
        ),
        (
            {"flow": {"objective": {"kind": "regression"}}},
            "flow.objective.kind: regression asks for a prediction, and a encoded_dit model draws by an encoder; use "
            "encoded_source",
        ),
        (
            {"model": {"kind": "dit"}, "flow": {"coupling": {}, "objective": {"kind": "encoded_source"}}},
            "flow.objective.kind: encoded_source trains an encoder, which a dit model lacks; use model.kind "
            "encoded_dit or encoded_mlp",
        ),
        ({"flow": {"path": {"kind": "trigonometric"}}}, "flow.coupling.kind: encoded does not go with flow.path.kind"),
        (
            {"flow": {"target": {"kind": "data"}}},
            "flow.objective.kind: encoded_source does not go with flow.target.kind",
        ),
        ({"flow": {"target": {"kind": "score"}}}, "flow.objective.kind: encoded_source does not go with"),
        (
            {"sample": {"sampler": {"kind": "renoise"}}},
            "sample.sampler.kind: renoise does not go with flow.coupling.kind",
        ),
        ({"sample": {"sampler": {"kind": "euler_maruyama"}}}, "sample.sampler.kind: euler_maruyama does not go with"),
        (
            {"optim": {"micro_batch": 4}},
            "optim.micro_batch: 4 examples are too few to tell captions apart, .*; use 8 or more, or "
            "flow.objective.contrastive=0",
        ),
        (
            {"optim": {"micro_batch": 1}, "flow": {"objective": {"contrastive": 0}}},
            "optim.micro_batch: 1 example has no other, .*; use 2 or more",
        ),
        ({"model": {"label_dropout": 0.0}}, "sample.guidance: 1.5 asks the network about no class, .*; use 1, or"),
    ],
)
def test_what_does_not_go_with_captions_as_sources_is_refused(sections: dict[str, Any], message: str) -> None:
    changed = {name: {**ENCODED.get(name, {}), **section} for name, section in sections.items()}
    with pytest.raises(ValueError, match=message):
        plan_layout(encoded(**changed), 1)


def test_fewer_examples_go_without_the_contrast() -> None:
    plan_layout(encoded(optim={"micro_batch": 2}, flow={**ENCODED["flow"], "objective": {"contrastive": 0}}), 1)


@pytest.mark.parametrize("kind", ["grpo", "adjoint_matching"])
def test_tasks_that_follow_states_from_noise_are_not_for_such_networks(kind: str) -> None:
    with pytest.raises(ValueError, match=rf"task\.kind: {kind} is not for a encoded_dit model; use flow"):
        encoded(task={"kind": kind, "base": "unused", "reward": {"kind": "ink"}})


@each("verb", ["edit", "restore", "steps", "pairs"])
def test_verbs_that_begin_at_noise_refuse_runs_that_begin_at_captions(verb: str) -> None:
    with pytest.raises(
        ValueError, match=f"run_dir: its paths begin at captions, and {verb} begins at noise; use a run"
    ):
        refuse(of_pictures_alone(encoded(), verb))
