"""The import-features verb, and a run that a vision transformer teaches."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from tests.trainer.commands import contents, refused, trained
from tests.trainer.model.feature_extractor.vision_transformers import dinov2_weights
from trainer.__main__ import main
from trainer.model.feature_extractor.extractor import feature_shape
from trainer.observe.metrics import read_metrics

WIDTH, PATCHES = 64, 4
DIGITS_OF_16_TOKENS = {
    "data": {"kind": "digits", "held_out": 64},
    "model": {
        **{"kind": "blockwise", "segments": 2, "patch_size": 2, "hidden": 32, "num_heads": 2, "trunk_layers": 2},
        "teacher_features": WIDTH,
    },
    "optim": {"steps": 30, "global_batch": 32, "lr": 6e-3, "warmup_steps": 0},
    "sample": {"sampler": {"kind": "segmented", "segments": 2, "within": {"kind": "euler", "steps": 2}}},
    "evaluate": {"every": 15},
    "observe": {"log_every": 1},
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "published.safetensors"
    save_file(dinov2_weights(width=WIDTH, grid=6), path)
    return path


def test_a_vision_transformer_teaches_a_run_and_judges_its_samples(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, judge, config = (tmp_path / name for name in ("teacher", "judge", "run.yaml"))
    command = ["import-features", str(weights), "--layout", "dinov2", "--image-size", str(4 * PATCHES)]
    assert main([*command, "--out", str(teacher)]) == 0
    described = capsys.readouterr().out
    assert described.startswith(f"{teacher}: features [64, 4, 4] of examples [3, 16, 16]; ")
    assert main([*command, "--tokens", "class", "--out", str(judge)]) == 0
    assert feature_shape(judge) == (WIDTH,)
    flow = {"time": {"kind": "stratified", "segments": 2}, "objective": {"kind": "aligned", "teacher": str(teacher)}}
    flow["objective"]["weight"] = 1.0
    config.write_text(yaml.safe_dump({"run": {"dir": str(tmp_path / "run")}, "flow": flow, **DIGITS_OF_16_TOKENS}))
    capsys.readouterr()
    assert main(["check", str(config)]) == 0
    assert f"teacher {described.rstrip()} on each rank\n" in capsys.readouterr().out

    taught = teacher.read_bytes()
    run = trained(tmp_path / "run", str(config))
    assert teacher.read_bytes() == taught
    records = [record.values for record in read_metrics(run / "metrics.jsonl")]
    cosines = [values["feature_cosine"] for values in records if "feature_cosine" in values]
    assert abs(sum(cosines[:3]) / 3) < 0.3, "the trunk is untrained"
    assert sum(cosines[-3:]) / 3 > 0.5
    quality = tmp_path / "quality.json"
    sample = ["sample", str(run), "--num", "10", "--out", str(tmp_path / "grid.png"), "--quality", str(quality)]
    assert main([*sample, "--features", str(judge)]) == 0
    assert json.loads(quality.read_text())["frechet_distance_on_features_unguided"] > 0


def test_a_teacher_of_other_places_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, config = tmp_path / "teacher", tmp_path / "run.yaml"
    assert main(["import-features", str(weights), "--layout", "dinov2", "--out", str(teacher)]) == 0
    flow = {"objective": {"kind": "aligned", "teacher": str(teacher)}}
    config.write_text(yaml.safe_dump({"run": {"dir": str(tmp_path / "run")}, "flow": flow, **DIGITS_OF_16_TOKENS}))
    line = refused(capsys, "check", config)
    assert "features of [6, 6] places but the network has 16 tokens" in line
    config.write_text(config.read_text().replace(str(teacher), str(weights)))
    assert "metadata.extractor: is missing; " in refused(capsys, "check", config)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layout", "clip"], "--layout: invalid choice: 'clip'"),
        (["--layout", "transformers-vit"], "embeddings.patch_embeddings.projection.weight: is missing"),
        (["--layout", "dinov2", "--image-size", "15"], "--image-size: 15 is not a multiple of the 4 pixels"),
        (["--layout", "dinov2", "--std", "-1"], "--std: -1.0 is not a standard deviation"),
        (["--layout", "dinov2", "--tokens", "all"], "--tokens: invalid choice: 'all'"),
        ([], "--layout"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(
    arguments: list[str], words: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path)
    line = refused(capsys, "import-features", weights, "--out", tmp_path / "out" / "teacher", *arguments)
    assert words in line
    assert contents(tmp_path) == before
