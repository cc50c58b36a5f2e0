"""A network of a user's, named in the configuration: read, written out, refused in one line."""

from pathlib import Path

import pytest

from tests.each import each
from tests.forked import ROOT
from tests.trainer.commands import refused
from trainer.config.file import load_config
from trainer.config.layout import Layout
from trainer.config.model import settings_class
from trainer.model.build import build_model, parameter_shapes

EXAMPLE = str(ROOT / "configs" / "examples" / "own_network.yaml")
CLASS = "configs.examples.own_network:Residual"


def test_its_settings_are_written_out_with_the_class_and_read_back(tmp_path: Path) -> None:
    config = load_config(EXAMPLE, ["model.hidden=8"])
    document = config.model_dump(mode="json")["model"]
    assert document == {"class": CLASS, "hidden": 8, "num_layers": 4, "label_dropout": 0.1, "init_from": None}
    assert config.model.kind == CLASS
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config
    assert isinstance(config.model, settings_class(CLASS))


def test_it_is_built_with_the_shapes_that_are_known_before() -> None:
    config = load_config(EXAMPLE, ["model.hidden=8"])
    network = build_model(config, Layout.single(config))
    assert type(network).__name__ == "Residual"
    assert {name: tuple(one.shape) for name, one in network.named_parameters()} == parameter_shapes(config)


@each(
    ("model", "line"),
    [
        (f'{{class: "{CLASS}", hiden: 3}}', "model.hiden: is not a known key (3); write hidden, or remove it"),
        (f'{{class: "{CLASS}", hidden: wide}}', "model.hidden: "),
        (f'{{class: "{CLASS}", kind: mlp}}', f"model.class: {CLASS} is given beside kind mlp; remove one of the two"),
        ('{class: "configs.examples.own_network:None"}', "has no class None; correct the name"),
        ('{class: "configs.examples.nowhere:Mine"}', "configs.examples.nowhere cannot be imported"),
        ('{class: "configs.examples.own_path:SlowStart"}', "has no settings of a network; give it an attribute Config"),
        ("{class: [1]}", "model.class: [1] does not name a class; write module:Class"),
        ("{class: null}", "model.class: None does not name a class; write module:Class"),
    ],
)
def test_what_is_no_network_is_refused(model: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert line in refused(capsys, "check", EXAMPLE, f"model={model}")


def test_experts_and_other_data_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "check", EXAMPLE, "moe={num_experts: 4, expert_hidden: 8}")
    assert "moe: the network makes its feed-forward layers itself; remove the section" in line
    assert "data.kind: digits is not for a" in refused(capsys, "check", EXAMPLE, "data={kind: digits}")
