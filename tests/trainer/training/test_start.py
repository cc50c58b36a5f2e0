"""The weights that a run starts with: those of a file, of which a rank reads its part, or those of a checkpoint."""

import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from tests.ranks import run_ranks
from trainer.config.run import RunConfig
from trainer.flow import Condition

ENGINES: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1, bf16": {"zero_stage": 1, "precision": "bf16"},
    "ZeRO 3": {"zero_stage": 3},
    "FSDP": {"kind": "fsdp"},
}


def configuration(engine: dict[str, Any], init_from: Path | None = None, tensor: int = 1) -> RunConfig:
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "model": {"hidden": 32, "num_layers": 2, "num_heads": 4, "init_from": init_from},
            "optim": {"steps": 1, "global_batch": 8, "micro_batch": 2, "lr": 1e-2},
            "engine": engine,
            "parallel": {"tensor": tensor},
        }
    )


def bare_engine(config: RunConfig, world_size: int) -> Any:
    """An engine whose weights are not numbers yet."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.model.build import bare_network
    from trainer.model.values import kept_weights

    layout = plan_layout(config, world_size)
    engine = build_engine(bare_network(config, layout), config, layout, torch.device("cpu"))
    with torch.no_grad():
        for piece in kept_weights(engine.shards(), engine.state(("weight",))):
            piece.tensor.fill_(math.nan)
    return engine, layout.accumulation


def stepped(engine: Any, accumulation: int, seed: int) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(accumulation):
        x_t = torch.randn(2, 1, 8, 8, generator=generator)
        difference = engine.model(x_t, torch.rand(2, generator=generator), Condition(torch.arange(2))) - x_t
        loss = difference.square().mean()
        engine.backward(loss)
    return float(loss.detach()), engine.step(1e-2, lambda _: None).norm


def resumed(_rank: int, world_size: int) -> dict[str, list[Any]]:
    """Steps of a run, and of one that is built without weights and goes on from its state."""
    from trainer.distributed.groups import divide_ranks
    from trainer.training.assembly import write_initial_weights

    divide_ranks(1, 1)
    found = {}
    for name, settings in ENGINES.items():
        config = configuration(settings)
        straight, accumulation = bare_engine(config, world_size)
        write_initial_weights(straight, config)
        stepped(straight, accumulation, 0)
        other, _ = bare_engine(config, world_size)
        for piece, given in zip(other.state(), straight.state(), strict=True):
            piece.tensor.copy_(given.tensor)
        other.state_loaded(straight.updates)
        found[name] = [[stepped(engine, accumulation, seed) for seed in (1, 2)] for engine in (straight, other)]
    return found


def test_a_run_that_goes_on_needs_nothing_but_its_checkpoint() -> None:
    for found in run_ranks(resumed, 2):
        for name, (straight, other) in found.items():
            assert straight == other, name
            assert all(math.isfinite(value) for step in other for value in step), name


def taken_over(_rank: int, world_size: int, folder: str) -> dict[str, tuple[int, int, bool]]:
    """Elements that were read, those that this rank keeps, and whether these are the file's."""
    from trainer.distributed.groups import divide_ranks, unite_ranks
    from trainer.model.build import parameter_shapes
    from trainer.model.weight_files import Weights
    from trainer.training.assembly import write_initial_weights

    path = Path(folder) / "ema.safetensors"
    generator = torch.Generator().manual_seed(0)
    given = {
        name: torch.randn(shape, generator=generator) for name, shape in parameter_shapes(configuration({})).items()
    }
    if _rank == 0:
        save_file(given, path)
    torch.distributed.barrier()
    found = {}
    for name, tensor in (("FSDP", 1), ("FSDP", 2), ("ZeRO 0", 2)):
        config = configuration(ENGINES[name], path, tensor)
        divide_ranks(1, tensor)
        engine, _ = bare_engine(config, world_size)
        with patch.object(Weights, "rectangle", autospec=True, side_effect=Weights.rectangle) as rectangle:
            write_initial_weights(engine, config)
        read = sum(math.prod(call.args[3]) for call in rectangle.call_args_list)
        pieces = engine.state(("weight",))
        right = all(torch.equal(piece.tensor, piece.of(given[piece.name])) for piece in pieces)
        found[f"{name}, tensor {tensor}"] = (read, sum(piece.tensor.numel() for piece in pieces), right)
        unite_ranks()
    found["whole"] = (sum(value.numel() for value in given.values()), 0, True)
    return found


def test_a_rank_reads_what_it_keeps_of_other_weights(tmp_path: Path) -> None:
    for found in run_ranks(taken_over, 2, str(tmp_path)):
        (whole, _, _) = found.pop("whole")
        for name, (read, kept, right) in found.items():
            assert right, name
            assert read == kept, name
            assert read < 0.8 * whole, name
