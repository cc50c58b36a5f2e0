"""What a configuration leaves out is read from its files, once, by the reader of configurations alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import ValidationError

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer.config.file import load_config, resolve
from trainer.config.run import RunConfig
from trainer.data import write_shards

STUDENT: dict[str, Any] = {"run": {"dir": "unused"}, "model": {"kind": "mlp"}, "optim": {"steps": 1, "global_batch": 4}}


def shards(folder: Path) -> dict[str, Any]:
    """The section of a folder of 20 points with 3 values each, of 2 classes."""
    write_shards(folder, [(np.zeros((20, 3), dtype=np.float32), np.arange(20) % 2)], num_classes=2)
    return {"kind": "shards", "path": str(folder), "held_out": 4}


def written(folder: Path, **sections: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**STUDENT, **sections}))
    return path


def test_a_resolved_configuration_is_made_without_its_files(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, data=shards(tmp_path / "data")))
    assert (tuple(config.data.shape), config.data.num_classes) == ((3,), 2)
    (tmp_path / "data").rename(tmp_path / "gone")
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())) == config
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(tmp_path / "config.yaml") == config, "as an old run folder is read"


def test_making_a_configuration_reads_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="shape"):
        RunConfig.model_validate({**STUDENT, "data": shards(tmp_path / "data")})


def test_resolving_twice_changes_nothing(tmp_path: Path) -> None:
    once = resolve({**STUDENT, "data": shards(tmp_path / "data")})
    assert once.unresolved == {}
    assert resolve(once.document) == once


@each(
    ("sections", "complaint"),
    [
        ({}, r"data\.path: .*/gone/index\.json: .*cannot be read"),
        ({"optim": {"steps": 0, "global_batch": 4}}, r"optim\.steps: .* \(also wrong: data\)"),
        ({"flow": {"tyme": 1}}, r"flow\.tyme: is not a known key"),
        ({"run": {"dir": 3}}, r"run\.dir: is not a path \(3\) \(also wrong: data\)"),
        ({"flow": {"time": {"kind": "grit"}}}, r"flow\.time\.kind: 'grit' is not one of"),
    ],
)
def test_a_file_that_is_not_there_is_told_when_nothing_else_is_wrong(
    sections: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    data = {"kind": "shards", "path": str(tmp_path / "gone"), "held_out": 4}
    with pytest.raises(Refusal, match=complaint):
        load_config(written(tmp_path, data=data, **sections))
