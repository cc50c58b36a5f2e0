"""All objections to a run: the first is the one that refuses it, the others never crash, and check shows every one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.trainer.commands import DIGITS, refused
from tests.trainer.config.mistakes import configuration, with_several_mistakes
from trainer.__main__ import main
from trainer.config.layout import Layout
from trainer.config.rules.objection import Objections, ObjectionsError, caught, errors, errors_in, refuse, result_or_all
from trainer.config.rules.plan import plan_layout, validated_layout
from trainer.config.run import RunConfig


def first_is_the_refusal(config: RunConfig, world_size: int) -> list[str]:
    """All objections; looks that they are lines without repetition, and that the first one is what refuses the run."""
    lines = [" ".join(str(error).split()) for error in validated_layout(config, world_size)]
    assert len(set(lines)) == len(lines)
    if not lines:
        assert isinstance(plan_layout(config, world_size), Layout)
        return lines
    with pytest.raises(ValueError, match=": ") as caught:
        plan_layout(config, world_size)
    assert " ".join(str(caught.value).split()) == lines[0]
    return lines


@pytest.mark.parametrize("world_size", [1, 4])
def test_no_rule_crashes_where_others_object(world_size: int) -> None:
    found = [first_is_the_refusal(config, world_size) for config in with_several_mistakes()]
    assert len(found) > 150
    several = [lines for lines in found if len(lines) > 2]
    assert len(several) > 40
    assert len({line.partition(":")[0] for lines in found for line in lines}) > 40, "the rules that object"


THREE = ("engine.zero_stage=0", "engine.precision=bf16", "optim.global_batch=51", "sample.sampler={kind: dopri5}")


def test_check_shows_every_objection_and_train_the_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = (DIGITS, *THREE, f"run.dir={tmp_path / 'run'}")
    assert main(["check", *run, "--world-size", "2"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    precision, drawn, batch = (line.removeprefix(f"trainer check: {DIGITS}: ") for line in output.err.splitlines())
    assert precision == "engine.precision: bf16 keeps its fp32 weights in the ZeRO optimiser; use zero_stage 1 to 3"
    assert drawn.startswith("sample.sampler.kind: dopri5 takes another number of steps on each rank")
    assert batch.startswith("optim.global_batch: 51 is not a multiple")
    assert refused(capsys, "train", *run, "parallel.expert=1") == f"{DIGITS}: {precision}"


def test_check_shows_the_objections_to_every_stage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    document = {
        "run": {"dir": str(tmp_path / "all")},
        "model": {"kind": "mlp", "hidden": 8},
        "data": {"kind": "toy"},
        "optim": {"steps": 2, "global_batch": 8},
        "stages": [
            {"name": "teacher", "train": {"flow": {"coupling": {"kind": "paired"}}}},
            {"name": "student", "train": {"flow": {"target": {"kind": "v_prediction"}}, "parallel": {"tensor": 2}}},
        ],
    }
    path = tmp_path / "stages.yaml"
    path.write_text(yaml.safe_dump(document))
    assert main(["check", str(path)]) == 2
    fields = [
        line.removeprefix(f"trainer check: {path}: ").split(":")[0] for line in capsys.readouterr().err.splitlines()
    ]
    assert fields == ["flow.coupling.kind", "parallel.tensor", "parallel.tensor", "flow.target.kind"]


def test_a_rule_is_not_begun_before_the_objections_before_it_are_taken() -> None:
    begun = []

    def rule(name: str, *objections: str) -> Objections:
        begun.append(name)
        yield from ((name, problem, "change it") for problem in objections)

    def broken() -> Iterator[ValueError]:
        yield from caught(int, "one")
        raise ValueError("a file: cannot be read")

    with pytest.raises(ValueError, match=r"^a: is wrong; change it$"):
        refuse(rule("none"), rule("a", "is wrong"), rule("b", "is wrong, too"))
    assert begun == ["none", "a"]
    found = [
        str(error)
        for error in errors(rule("a", "is wrong", "is wrong"), broken(), rule("a", "is wrong"), rule("c", "no"))
    ]
    assert found == [
        "a: is wrong; change it",
        "invalid literal for int() with base 10: 'one'",
        "a file: cannot be read",
        "c: no; change it",
    ]


def test_a_whole_examination_raises_all_objections_or_returns() -> None:
    bad = configuration(engine={"zero_stage": 0, "precision": "bf16"}, optim={"global_batch": 50})
    with pytest.raises(ObjectionsError) as caught:
        result_or_all(validated_layout(bad, 4))
    assert [str(error).split(":")[0] for error in errors_in(caught.value)] == ["engine.precision", "optim.global_batch"]
    assert str(caught.value).count("\n") == 1
    with pytest.raises(ValueError, match=r"^optim\.global_batch: 50") as single:
        result_or_all(validated_layout(configuration(optim={"global_batch": 50}), 4))
    assert errors_in(single.value) == (single.value,)
    assert result_or_all(validated_layout(configuration(), 4)) == plan_layout(configuration(), 4)
