"""Folders of pairs: read as written, row by row, and refused where they are not what they were."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from netsim.foundation.refusal import Refusal
from tests.each import each
from trainer import data
from trainer.config.file import resolve
from trainer.config.rules.plan import plan_layout
from trainer.config.run import RunConfig
from trainer.data import BadExamples, PairsConfig
from trainer.data.shard.index import PairIndex
from trainer.evaluation.judgement import real_examples
from trainer.flow.context import Identity
from trainer.task import FlowTask

NUM = 30


def arrays(
    dtype: str = "float32", segments: int | None = None, num_classes: int = 5, nodes: tuple[float, ...] | None = None
) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found = {name: generator.standard_normal((NUM, 3)).astype(dtype) for name in ("x_0", "x_1")}
    if num_classes:
        found["labels"] = generator.integers(0, num_classes, NUM)
    if segments is not None:
        first = generator.integers(0, segments, NUM)
        found["interval"] = (np.stack([first, first + 1], 1) / segments).astype(np.float32)
    if nodes is not None:
        first = generator.integers(0, len(nodes) - 1, NUM)
        found["interval"] = np.array([*pairwise(nodes)], np.float32)[first]
    return found


def written(folder: Path, lengths: tuple[int, ...] = (12, 12, 6), num_classes: int = 5, **settings: Any) -> PairIndex:
    folder.mkdir()
    every = arrays(num_classes=num_classes, **settings)
    shards = []
    for number, (first, end) in enumerate(zip(np.cumsum((0, *lengths)), np.cumsum(lengths), strict=False)):
        shards.append({"file": f"shard_{number:05d}.safetensors", "num_examples": end - first})
        save_file({name: values[first:end].copy() for name, values in every.items()}, folder / shards[-1]["file"])
    index = PairIndex.model_validate(
        {
            "shape": (3,),
            "dtype": settings.get("dtype", "float32"),
            "num_classes": num_classes,
            "segments": settings.get("segments"),
            "nodes": settings.get("nodes"),
            "made_by": {"seed": 0},
            "shards": shards,
        }
    )
    index.write(folder)
    return index


def config(folder: Path, **changes: Any) -> PairsConfig:
    return PairsConfig.model_validate(
        PairsConfig.resolved({"kind": "pairs", "path": str(folder), "held_out": 5, **changes})
    )


def test_data_points_are_ends_of_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of parts of paths those at time 1; they are what a student's samples are compared with."""
    ends = arrays(segments=4)["interval"][:, 1]
    written(tmp_path / "whole")
    written(tmp_path / "parts", segments=4)
    whole, parts = (data.build(config(tmp_path / name)) for name in ("whole", "parts"))
    for split in data.SPLITS:
        assert torch.equal(whole.data_points(split), whole.indices(split))
        wanted = [number for number in parts.indices(split).tolist() if ends[number] == 1]
        assert parts.data_points(split).tolist() == wanted
        assert 0 < len(wanted) < len(parts.indices(split))
        assert data.first_data_points(parts, split, 1).tolist() == wanted[:1]
    run = {"run": {"dir": "r"}, "model": {"kind": "mlp"}, "optim": {"steps": 1, "global_batch": 8}}
    student = RunConfig.model_validate({**run, "data": config(tmp_path / "parts").model_dump()})
    real, _ = real_examples(student, Identity())
    assert torch.equal(real, parts.get(parts.data_points("train")).x_1)
    monkeypatch.setattr(parts, "data_points", lambda _: torch.arange(0))
    with pytest.raises(ValueError, match=r"^data: no held_out example is a data point, .* with --data-from and"):
        data.first_data_points(parts, "held_out", 5)


def test_parts_of_paths_are_learned_in_the_units_that_they_are_in(tmp_path: Path) -> None:
    index = written(tmp_path / "p", segments=4)
    before = {
        name: value
        for name, value in json.loads(index.model_dump_json()).items()
        if name not in ("data_scale", "nodes", "latents")
    }
    assert PairIndex.model_validate(before) == index, "a folder of before there was a scale"
    scaled = index.model_copy(update={"data_scale": 2.0})
    assert (
        scaled.digest != index.digest == hashlib.sha256(json.dumps(before).replace(" ", "").encode()).hexdigest()[:16]
    )
    scaled.write(tmp_path / "p")
    document = {
        "run": {"dir": "r"},
        "model": {"kind": "mlp"},
        "optim": {"steps": 1, "global_batch": 8},
        "data": {"kind": "pairs", "path": str(tmp_path / "p"), "held_out": 5},
        "flow": {"coupling": {"kind": "paired"}},
    }
    with pytest.raises(ValueError, match=r"^flow\.data_scale: 1 is not that of .*; use 2$"):
        plan_layout(RunConfig.model_validate(resolve(document).document), 1)
    document["flow"]["data_scale"] = 2.0
    plan_layout(RunConfig.model_validate(resolve(document).document), 1)


@each("dtype", ["float32", "float16"])
@each("segments", [None, 4])
@each("num_classes", [0, 5])
def test_what_is_written_is_read(tmp_path: Path, dtype: str, segments: int | None, num_classes: int) -> None:
    settings: dict[str, Any] = {"dtype": dtype, "segments": segments, "num_classes": num_classes}
    written(tmp_path / "p", **settings)
    pairs = data.build(config(tmp_path / "p"))
    assert (pairs.shape, pairs.num_classes) == ((3,), num_classes)
    order = torch.from_numpy(np.random.default_rng(2).permutation(NUM))
    batch = pairs.get(order)
    for name, values in arrays(**settings).items():
        read = getattr(batch, name)
        np.testing.assert_array_equal(read.numpy(), values[order])
        assert read.dtype == (torch.int64 if name == "labels" else torch.float32)
    assert (batch.interval is None) == (segments is None)
    assert (batch.labels is None) == (num_classes == 0)
    few, many = (data.build(config(tmp_path / "p", held_out=n)) for n in (5, 9))
    assert set(few.indices("held_out").tolist()) < set(many.indices("held_out").tolist())
    assert sorted(torch.cat([few.indices("train"), few.indices("held_out")]).tolist()) == list(range(NUM))


def test_bad_rows_are_named_by_shard_and_row(tmp_path: Path) -> None:
    written(tmp_path / "p", segments=4)
    shard = tmp_path / "p" / "shard_00001.safetensors"
    bad = {name: values[12:24].copy() for name, values in arrays(segments=4).items()}
    bad["x_0"][3, 1], bad["labels"][7], bad["interval"][9] = np.nan, 5, [0.5, 0.5]
    save_file(bad, shard)
    with pytest.raises(BadExamples) as caught:
        data.build(config(tmp_path / "p")).get(torch.arange(NUM))
    assert caught.value.reasons == {
        15: f"{shard}:3: x_0: contains values that are not finite",
        19: f"{shard}:7: labels: 5 is not one of the 5 classes",
        21: f"{shard}:9: interval: [0.5, 0.5] is not a part of [0, 1]",
    }


def test_a_run_goes_on_with_the_pairs_that_it_began_with(tmp_path: Path) -> None:
    written(tmp_path / "a")
    resolved = config(tmp_path / "a")
    assert PairsConfig.model_validate(resolved.model_dump(mode="json")) == resolved
    data.build(resolved)
    written(tmp_path / "b", lengths=(20, 10))
    with pytest.raises(Refusal, match=r"data\.digest: "):
        data.build(resolved.model_copy(update={"path": tmp_path / "b"}))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"labels": None}, r"labels: is missing \(there are x_0, x_1\)"),
        ({"x_0": np.zeros((12, 2), np.float32)}, r"x_0: is float32 \[12, 2\] but the index says float32 \[12, 3\]"),
        ({"x_1": np.zeros((12, 3))}, r"x_1: is float64 \[12, 3\] but the index says float32"),
    ],
)
def test_a_shard_that_is_not_what_the_index_says_is_refused(tmp_path: Path, changed: Any, problem: str) -> None:
    written(tmp_path / "p")
    shard = {**{name: values[:12].copy() for name, values in arrays().items()}, **changed}
    save_file({k: v for k, v in shard.items() if v is not None}, tmp_path / "p" / "shard_00000.safetensors")
    with pytest.raises(Refusal, match=problem):
        data.build(config(tmp_path / "p"))


def run_config(folder: Path, coupling: str, **flow: Any) -> RunConfig:
    document = {
        "run": {"dir": "unused"},
        "model": {"kind": "mlp", "label_dropout": 0.0},
        "data": {"kind": "pairs", "path": str(folder), "held_out": 5},
        "optim": {"steps": 1, "global_batch": 10},
        "flow": {"coupling": {"kind": coupling}, **flow},
    }
    return RunConfig.model_validate(resolve(document).document)


def test_a_step_trains_on_the_pairs_of_the_files(tmp_path: Path) -> None:
    """On the straight path x_0 = x_t - t v and x_1 = x_t + (1 - t) v, whatever the time is."""
    written(tmp_path / "p")
    configured = run_config(tmp_path / "p", "paired")
    batch = data.build(configured.data).get(torch.arange(10))
    (drawn,) = FlowTask(configured).draw([batch], [torch.Generator().manual_seed(0)])
    sample = drawn.sample
    t = sample.t[:, None]
    torch.testing.assert_close(sample.x_t - t * sample.velocity, batch.x_0)
    torch.testing.assert_close(sample.x_t + (1 - t) * sample.velocity, batch.x_1)
    assert torch.equal(torch.as_tensor(drawn.condition.label), torch.as_tensor(batch.labels))


def test_pairs_and_couplings_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "p")
    plan_layout(run_config(tmp_path / "p", "paired"), 1)
    with pytest.raises(ValueError, match=r"flow\.coupling\.kind: independent would tear apart"):
        plan_layout(run_config(tmp_path / "p", "independent"), 1)
    torn = run_config(tmp_path / "p", "paired").model_dump(mode="json") | {"data": {"kind": "toy"}}
    with pytest.raises(ValueError, match=r"flow\.coupling\.kind: paired takes .* toy data have none"):
        plan_layout(RunConfig.model_validate(torn), 1)


def test_more_segments_of_time_than_examples_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "p")
    plan_layout(run_config(tmp_path / "p", "paired", time={"kind": "stratified", "segments": 10}), 1)
    with pytest.raises(ValueError, match=r"flow\.time\.segments: 11 segments exceed the micro batch of 10"):
        plan_layout(run_config(tmp_path / "p", "paired", time={"kind": "stratified", "segments": 11}), 1)
