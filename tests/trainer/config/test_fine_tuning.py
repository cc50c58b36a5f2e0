"""Runs that go on from another one: what they take over, what is written wins, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from netsim.foundation.refusal import Refusal
from trainer import load_config
from trainer.config.file import with_base
from trainer.config.rules.objection import refuse
from trainer.config.run import RunConfig
from trainer.experiment.stage.reading import load_stages

OPTIM = {"steps": 3, "global_batch": 8, "micro_batch": 8, "lr": 1e-3}
SHORT: dict[str, Any] = {"task": {"kind": "flow"}, "optim": OPTIM}


def recorded(folder: Path, steps: tuple[int, ...] = (10,), **sections: Any) -> RunConfig:
    """A run of which nothing but the configurations of its checkpoints is there; the newest is returned."""
    document: dict[str, Any] = {
        "run": {"dir": str(folder)},
        "data": {"kind": "digits", "held_out": 100},
        "model": {"hidden": 32, "num_layers": 2, "num_heads": 4},
        "moe": {"num_experts": 4, "expert_hidden": 16, "router": {"kind": "sparse_ot", "gamma": 0.2}},
        "flow": {"time": {"kind": "logit_normal"}, "data_scale": 1.5},
        "sample": {"per_class": 3, "guidance": 2.5},
        "optim": {**OPTIM, "steps": max(steps)},
        **sections,
    }
    config = RunConfig.model_validate(document)
    for step in steps:
        own = config.model_copy(
            update={"flow": config.flow and config.flow.model_copy(update={"data_scale": step / 10})}
        )
        checkpoint = folder / "checkpoints" / f"step_{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "config.yaml").write_text(own.to_yaml())
        (checkpoint / "COMPLETE").touch()
        config = own
    return config


def short(tmp_path: Path, **changes: Any) -> Path:
    document = {"run": {"dir": str(tmp_path / "new")}, **SHORT, **changes}
    document["task"] = {"base": str(tmp_path / "base"), **document["task"]}
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "short.yaml"


def test_what_is_not_written_is_that_of_the_base(tmp_path: Path) -> None:
    base = recorded(tmp_path / "base")
    config = load_config(short(tmp_path))
    assert config.model == base.model.model_copy(update={"init_from": tmp_path / "base"})
    for name in ("data", "moe", "flow", "sample"):
        assert getattr(config, name) == getattr(base, name)
    assert config.run.dir == tmp_path / "new"
    assert config.optim.steps == 3


def test_what_is_written_wins_key_by_key(tmp_path: Path) -> None:
    base = recorded(tmp_path / "base")
    path = short(tmp_path, model={"dropout": 0.2}, flow={"time": {"mean": 2.0}}, sample={"every": 5})
    config = load_config(path, ["moe.router.gamma=0.5", "data.held_out=60", "flow.coupling.kind=minibatch_ot"])
    assert config.model.hidden == 32
    assert config.model.dropout == 0.2  # pyright: ignore[reportAttributeAccessIssue]
    assert config.flow
    assert base.flow
    assert config.flow.time == base.flow.time.model_copy(update={"mean": 2.0})
    assert config.flow.coupling.kind == "minibatch_ot"
    assert (config.flow.data_scale, config.sample.every, config.data.held_out) == (1.0, 5, 60)  # pyright: ignore
    assert config.moe
    assert base.moe
    assert config.moe.router == base.moe.router.model_copy(update={"gamma": 0.5})
    assert config.moe.num_experts == 4


def test_sections_of_another_kind_and_other_files_have_nothing_of_the_base(tmp_path: Path) -> None:
    recorded(tmp_path / "base", data={"kind": "toy"}, model={"kind": "mlp", "hidden": 32}, moe=None, sample={})
    config = load_config(short(tmp_path, flow={"time": {"kind": "uniform"}}, moe=None), ["model.init_from=null"])
    assert config.flow
    assert config.flow.time.kind == "uniform"
    assert (config.moe, config.model.init_from) == (None, None)
    document = {**SHORT, "task": {"base": str(tmp_path / "base")}}
    (tmp_path / "base/checkpoints/step_00000010/config.yaml").write_text(
        yaml.safe_dump({"data": {"kind": "shards", "path": "a", "digest": "f"}, "model": {"init_new": ["projection"]}})
    )
    completed = with_base({**document, "data": {"path": "b"}})
    assert completed["data"] == {"path": "b"}
    assert completed["model"] == {"init_new": [], "init_from": str(tmp_path / "base")}
    assert with_base({**document, "data": {"path": "a"}})["data"]["digest"] == "f"


def test_adapters_without_a_base_adapt_that_of_the_task(tmp_path: Path) -> None:
    recorded(tmp_path / "base", moe=None)
    document = {**SHORT, "task": {"base": str(tmp_path / "base")}}
    model = with_base({**document, "model": {"adapters": {"kind": "low_rank", "rank": 2}}})["model"]
    assert model["adapters"] == {"kind": "low_rank", "rank": 2, "base": str(tmp_path / "base")}
    assert (model["init_from"], model["hidden"]) == (None, 32)
    other = with_base({**document, "model": {"adapters": {"kind": "low_rank", "base": "elsewhere"}}})["model"]
    assert other["adapters"]["base"] == "elsewhere"


def test_the_newest_complete_checkpoint_is_taken(tmp_path: Path) -> None:
    recorded(tmp_path / "base", steps=(10, 20, 30))
    (tmp_path / "base/checkpoints/step_00000030/COMPLETE").unlink()
    (tmp_path / "base/checkpoints/step_00000010").rename(tmp_path / "base/checkpoints/step_00000099_good")
    config = load_config(short(tmp_path))
    assert config.flow
    assert config.flow.data_scale == 2.0


def test_a_recorded_run_is_read_without_its_base(tmp_path: Path) -> None:
    recorded(tmp_path / "base")
    config = load_config(short(tmp_path, task={"base": {"run": str(tmp_path / "base"), "digest": "0" * 64}}))
    (tmp_path / "whole.yaml").write_text(config.to_yaml())
    (tmp_path / "base").rename(tmp_path / "gone")
    assert load_config(tmp_path / "whole.yaml") == config
    with pytest.raises(Refusal, match=r"base: task.base: does not exist"):
        load_config(short(tmp_path, task={"base": {"run": str(tmp_path / "base"), "digest": "0" * 64}}))


def test_a_run_without_a_base_does_not_write_the_key(tmp_path: Path) -> None:
    assert "base" not in recorded(tmp_path / "base").to_yaml().split("task:")[1].split("\n")[2]
    assert recorded(tmp_path / "other").model_dump()["task"] == {"kind": "flow"}


def test_a_base_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    remedy = "name the folder of a run that has saved a checkpoint"
    with pytest.raises(Refusal, match=rf"^{tmp_path}/base: task.base: does not exist; {remedy}$"):
        load_config(short(tmp_path))
    (tmp_path / "base").mkdir()
    with pytest.raises(Refusal, match=rf"^{tmp_path}/base: task.base: holds no complete checkpoint; {remedy}$"):
        load_config(short(tmp_path))
    (tmp_path / "new").mkdir()
    (tmp_path / "new/config.yaml").touch()
    with pytest.raises(Refusal, match=rf"{remedy}, or resume with {tmp_path}/new/config.yaml$"):
        load_config(short(tmp_path))
    recorded(tmp_path / "base")
    record = tmp_path / "base/checkpoints/step_00000010/config.yaml"
    for content, problem in (("a: [", r"cannot be read \(is not YAML\)"), ("- 1", "is no configuration")):
        record.write_text(content)
        with pytest.raises(Refusal, match=rf"^{record}: task.base: {problem}; {remedy}"):
            load_config(short(tmp_path))
    with pytest.raises(Refusal, match=r"also wrong: task.base"):
        load_config(short(tmp_path, task={"base": 3}))


def test_a_stage_may_go_on_from_an_earlier_one(tmp_path: Path) -> None:
    document = {
        "run": {"dir": str(tmp_path / "all")},
        "model": {"hidden": 32, "num_layers": 1, "num_heads": 4},
        "optim": OPTIM,
        "stages": [
            {"name": "first", "train": {}},
            {"name": "second", "train": {"task": {"base": "{run.dir}/first"}, "optim": {"steps": 2}}},
        ],
    }
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(document))
    first, second = load_stages(tmp_path / "stages.yaml")
    assert second.awaited([first, second]) == [first]
    refuse(second.objections(1, [first, second]))
    recorded(tmp_path / "all/first", flow={"data_scale": 1.5})
    config = second.config()  # pyright: ignore[reportAttributeAccessIssue]
    assert (config.model.init_from, config.model.hidden) == (tmp_path / "all/first", 32)
    assert config.flow.data_scale == 1.0


def test_a_base_that_a_run_only_began_with_may_be_gone(tmp_path: Path) -> None:
    """Its digest stays; a run that asks its base, or has yet to pin it, needs it."""
    from trainer.checkpoint.pretrained import pinned

    recorded(tmp_path / "base")
    named = {"run": str(tmp_path / "base"), "digest": "0" * 64}
    began = load_config(short(tmp_path, task={"kind": "flow", "base": named}))
    asks = load_config(short(tmp_path, task={"kind": "grpo", "base": named, "reward": {"kind": "ink"}, "kl": 0.1}))
    fresh = load_config(short(tmp_path))
    (tmp_path / "base").rename(tmp_path / "gone")
    assert pinned(began) == began
    for config in (asks, fresh):
        with pytest.raises(Refusal, match=r"base: run_dir: does not exist"):
            pinned(config)
