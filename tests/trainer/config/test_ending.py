"""Steps that are written by the end of a run, those beyond it, and what more steps do to the learning rate."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.config.file import load_config
from trainer.config.rules.cautions import cautions
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.training.schedule import changed_schedule, learning_rate

CONFIGS = Path(__file__).parents[3] / "configs"
RUN: dict[str, Any] = {
    "run": {"dir": "out"},
    "model": {"kind": "mlp", "hidden": 8},
    "data": {"kind": "toy"},
    "optim": {"steps": 600, "global_batch": 4},
}


def run(**sections: Any) -> RunConfig:
    return RunConfig.model_validate({**RUN, **sections})


def said(config: RunConfig) -> list[str]:
    return [line for line in cautions(config, plan_layout(config, 1)) if line.startswith("optim.steps")]


def test_shares_and_negative_steps_are_numbers_once_read() -> None:
    config = run(evaluate={"every": "1/6"}, sample={"every": "1/7"}, trace={"steps": [5, -3, -1]})
    assert (config.evaluate.every, config.sample.every, config.trace.steps) == (100, 85, (5, 598, 600))
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config


def test_a_share_of_few_steps_is_one_step_and_steps_before_the_first_are_none() -> None:
    config = run(optim={"steps": 2, "global_batch": 4}, evaluate={"every": "1/6"}, trace={"steps": [-3, -1]})
    assert (config.evaluate.every, config.trace.steps) == (1, (-3, 2))
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config
    assert said(config) == [
        "optim.steps: 2 ends before trace.steps -3 (not recorded); a share of the run, such as every=1/2, and "
        "trace.steps=[-2,-1] follow its end"
    ]


@each("name", ["digits_moe", "digits_mixture", "gpt_text", "gpt_moe", "toy", "digits_autoencoder"])
def test_shipped_runs_follow_their_end(name: str) -> None:
    data = ["data={kind: python_source, context: 8}"] if name == "gpt_text" else []
    of = [load_config(CONFIGS / "runs" / f"{name}.yaml", [f"optim.steps={steps}", *data]) for steps in (600, 50)]
    for config in of:
        assert all(1 <= step <= config.optim.steps for step in config.trace.steps)
        for section in (config.evaluate, config.sample):
            assert section.every is None or section.every <= config.optim.steps
    assert len(of[0].trace.steps) == len(of[1].trace.steps)


def test_what_comes_after_the_end_is_one_line() -> None:
    config = run(
        optim={"steps": 50, "global_batch": 4},
        trace={"steps": [49, 590, 591]},
        evaluate={"every": 100},
        sample={"every": 200},
        checkpoint={"every": 300},
    )
    (line,) = said(config)
    for part in ("50 ends before", "trace.steps 590, 591 (not", "evaluate.every 100", "sample.every 200"):
        assert part in line
    assert "checkpoint" not in line, "the last step is saved in any case"
    assert said(run(optim={"steps": 50, "global_batch": 4})) == [], "nobody has written the defaults"


@pytest.mark.parametrize("steps", ["[0]", "[1.5]"])
def test_step_zero_is_refused(steps: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(RUN))
    with pytest.raises(Refusal, match=r"trace\.steps"):
        load_config(tmp_path / "a.yaml", [f"trace.steps={steps}"])


def test_more_steps_say_what_they_do_to_the_rate() -> None:
    before = run(optim={"steps": 600, "global_batch": 4, "lr": 1e-2, "final_lr": 1e-4}).optim
    optim = before.model_copy(update={"steps": 1200})
    line = changed_schedule(optim, 600, 600)
    assert line is not None
    assert f"from 0.0001 at step 600 to {learning_rate(optim, 601):.3g} at step 601" in line
    assert changed_schedule(before, 600, 300) is None
    assert changed_schedule(before, 1200, 600) is None, "a finished run takes no step"
