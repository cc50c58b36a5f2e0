"""A checkpoint of the first format of state, which listed all rectangles in one index, is gone on from.

tests/files/checkpoint_1 is a run of two ranks under ZeRO 1 after two steps: an MLP of width 4 on points.
"""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.each import each
from tests.ranks import run_ranks
from trainer.checkpoint.intact import newest_apparently_intact, newest_checkpoint
from trainer.checkpoint.manifest import Manifest
from trainer.config.run import RunConfig
from trainer.flow import UNCONDITIONAL

ROOT = Path(__file__).parents[2] / "files" / "checkpoint_1"
FOLDER = ROOT / "step_00000002"
ENGINES: dict[str, dict[str, Any]] = {"ZeRO 1": {}, "ZeRO 3": {"zero_stage": 3}, "FSDP2": {"kind": "fsdp"}}


def restored(rank: int, world_size: int) -> dict[str, Any]:
    """What the pieces of this rank are after loading, by engine; and the loss of the next step."""
    from trainer.checkpoint.resuming import load_checkpoint
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.engine.ema import MovingAverage
    from trainer.distributed.groups import divide_ranks, unite_ranks
    from trainer.model.build import build_model

    found = {}
    for name, settings in ENGINES.items():
        config = RunConfig.model_validate(
            {
                "run": {"dir": "run"},
                "model": {"kind": "mlp", "hidden": 4, "num_layers": 1},
                "data": {"kind": "toy"},
                "optim": {"steps": 2, "global_batch": 8, "micro_batch": 8 // world_size},
                "engine": settings,
            }
        )
        layout = plan_layout(config, world_size)
        divide_ranks(1, 1)
        engine = build_engine(build_model(config, layout), config, layout, torch.device("cpu"))
        average = MovingAverage(engine, 0.9)
        load_checkpoint(FOLDER, config, layout, engine, average)
        pieces = [*engine.state(), *average.state()]
        x = torch.linspace(-1, 1, 16).view(8, 2).chunk(world_size)[rank]
        found[name] = {
            "updates": engine.updates,
            "pieces": [(p.name, p.kind, p.offset, p.tensor.clone()) for p in pieces],
            "loss": float((engine.model(x, x[:, 0].abs(), UNCONDITIONAL) - x).square().mean().detach()),
        }
        unite_ranks()
    return found


@pytest.fixture(scope="module")
def ranks() -> Callable[[int], list[dict[str, Any]]]:
    return cache(lambda world_size: run_ranks(restored, world_size))


def whole_tensors() -> dict[tuple[str, str], torch.Tensor]:
    """The state as its index says it is."""
    whole = {}
    for key, tensor in json.loads((FOLDER / "state" / "index.json").read_text())["tensors"].items():
        name, kind = key.split(":")
        whole[name, kind] = torch.full(tensor["shape"], torch.nan)
        for chunk in tensor["chunks"]:
            window = tuple(slice(o, o + n) for o, n in zip(chunk["offset"], chunk["sizes"], strict=True))
            stored = load_file(FOLDER / "state" / chunk["file"])
            whole[name, kind][window] = stored[f"{key}[{','.join(map(str, chunk['offset']))}]"]
    return whole


@each("world_size", [1, 2])
@each("name", ENGINES)
def test_it_is_gone_on_from(ranks: Callable[[int], list[dict[str, Any]]], world_size: int, name: str) -> None:
    whole, seen, loss = whole_tensors(), dict[tuple[str, str], int](), 0.0
    for rank in ranks(world_size):
        assert rank[name]["updates"] == 2
        loss += rank[name]["loss"] / world_size
        for parameter, kind, offset, values in rank[name]["pieces"]:
            window = tuple(slice(o, o + n) for o, n in zip(offset, values.shape, strict=True))
            assert torch.equal(values, whole[parameter, kind][window])
            seen[parameter, kind] = seen.get((parameter, kind), 0) + values.numel()
    assert seen == {key: tensor.numel() for key, tensor in whole.items()}
    assert loss == pytest.approx(ranks(1)[0]["ZeRO 1"]["loss"], rel=1e-5)


def test_it_is_intact_and_its_average_is_found(tmp_path: Path) -> None:
    assert newest_apparently_intact(ROOT, allow_rng_loss=False, read_bytes=10**6) == (FOLDER, [])
    assert Manifest.read(FOLDER).weights_sha256() == Manifest.read(FOLDER).files["ema.safetensors"].sha256
    shutil.copytree(ROOT, tmp_path / "checkpoints")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoints" / FOLDER.name
