"""What engines begin with: the same values as the whole network has, and never more memory than a rank keeps."""

import gc
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.allocations import Allocations
from tests.ranks import run_ranks
from trainer.config.run import RunConfig

ENGINES: dict[str, dict[str, Any]] = {
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 1, bf16": {"zero_stage": 1, "precision": "bf16"},
    "ZeRO 2": {"zero_stage": 2},
    "ZeRO 2, bf16": {"zero_stage": 2, "precision": "bf16"},
    "ZeRO 3": {"zero_stage": 3},
    "ZeRO 3, bf16": {"zero_stage": 3, "precision": "bf16"},
    "FSDP": {"kind": "fsdp"},
    "FSDP, bf16": {"kind": "fsdp", "precision": "bf16"},
}
MIXTURE = {"num_experts": 4, "expert_hidden": 24, "shared_expert_hidden": 8}
LARGEST = 1.2
"""Most memory beside what a rank keeps and the largest parameter."""


def configuration(
    engine: dict[str, Any], *, tensor: int = 1, expert: int = 1, moe: bool = False, layers: int = 2
) -> RunConfig:
    """A table whose rows neither two nor four ranks divide evenly; buckets of engines that are small beside it all."""
    bucket = {"bucket_elements": 1000} if engine.get("kind") != "fsdp" else {}
    return RunConfig.model_validate(
        {
            "run": {"dir": "unused", "seed": 5},
            "model": {"hidden": 48, "num_layers": layers, "num_heads": 4},
            "moe": MIXTURE if moe else None,
            "optim": {"steps": 1, "global_batch": 8},
            "engine": {**bucket, **engine},
            "parallel": {"tensor": tensor, "expert": expert},
        }
    )


def whole_values(moe: bool) -> dict[str, torch.Tensor]:
    """Of the network that one process holds, by logical name."""
    from trainer.config.layout import Layout
    from trainer.distributed.groups import divide_ranks, unite_ranks
    from trainer.model.build import build_model
    from trainer.model.parallel.state import held_pieces

    divide_ranks(1, 1)
    config = configuration({}, moe=moe)
    values = {piece.name: piece.tensor.clone() for piece in held_pieces(build_model(config, Layout.single(config)))}
    unite_ranks()
    return values


def begun(config: RunConfig, world_size: int, whole: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Names whose values differ from those of the whole network, and what the start sent."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.groups import divide_ranks, unite_ranks
    from trainer.model.build import bare_network
    from trainer.model.values import kept_weights
    from trainer.training.assembly import write_initial_weights

    divide_ranks(config.parallel.expert, config.parallel.tensor)
    sent, broadcast = [], dist.broadcast

    def counted(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return broadcast(tensor, *arguments, **options)

    dist.broadcast = counted
    layout = plan_layout(config, world_size)
    engine = build_engine(bare_network(config, layout), config, layout, torch.device("cpu"))
    write_initial_weights(engine, config)
    dist.broadcast = broadcast
    differing, elements = set(), 0
    for piece in kept_weights(engine.shards(), engine.state(("weight",))):
        elements += piece.tensor.numel()
        if not torch.equal(piece.tensor, piece.of(whole[piece.name]).to(piece.tensor.dtype)):
            differing.add(piece.name)
    unite_ranks()
    return {"differing": differing, "elements": elements, "sent": sum(sent)}


def all_begun(_rank: int, world_size: int) -> dict[str, dict[str, Any]]:
    dense, mixture = whole_values(moe=False), whole_values(moe=True)
    found = {name: begun(configuration(engine), world_size, dense) for name, engine in ENGINES.items()}
    if world_size > 1:
        for name in ("ZeRO 0", "ZeRO 1, bf16", "ZeRO 3", "FSDP"):
            config = configuration(ENGINES[name], tensor=2)
            found[f"{name}, tensor 2"] = begun(config, world_size, dense)
        for name in ("ZeRO 0", "ZeRO 1", "ZeRO 2, bf16"):
            config = configuration(ENGINES[name], expert=2, moe=True)
            found[f"{name}, experts"] = begun(config, world_size, mixture)
    return found


@pytest.mark.parametrize(
    "world_size", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_every_engine_begins_with_the_bits_of_the_whole_network(world_size: int) -> None:
    for found in run_ranks(all_begun, world_size):
        for name, one in found.items():
            assert not one["differing"], name
            assert one["elements"] > 0, name
            assert one["sent"] == 0, f"{name}: equal values are not sent"


def memory(_rank: int, world_size: int) -> dict[str, tuple[int, int, int]]:
    """Most bytes at once while each engine starts, the bytes that stay, and those of the largest parameter."""
    from trainer.config.rules.plan import plan_layout
    from trainer.distributed.engine import build_engine
    from trainer.distributed.groups import divide_ranks
    from trainer.model.build import bare_network
    from trainer.training.assembly import write_initial_weights

    divide_ranks(1, 1)
    found = {}
    cases = {name: configuration(settings, layers=8) for name, settings in ENGINES.items()}
    for name in ("ZeRO 0", "ZeRO 1, bf16", "ZeRO 2"):
        cases[f"{name}, experts"] = configuration(ENGINES[name], layers=4, moe=True)
    for name, config in cases.items():
        layout = plan_layout(config, world_size)
        with Allocations() as allocations:
            network = bare_network(config, layout)
            largest = 4 * max(parameter.numel() for parameter in network.parameters())
            engine = build_engine(network, config, layout, torch.device("cpu"))
            write_initial_weights(engine, config)
            gc.collect()
            found[name] = (allocations.peak, allocations.live, largest)
        del network, engine
        gc.collect()
    return found


@pytest.mark.parametrize(
    "world_size", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_start_takes_hardly_more_memory_than_stays(world_size: int) -> None:
    for found in run_ranks(memory, world_size):
        for name, (peak, kept, largest) in found.items():
            share = peak / (kept + largest)
            print(f"{name:<22} {world_size} ranks: {peak:>9} bytes at most, {kept:>9} stay: {share:.3f}")
            assert peak <= LARGEST * (kept + largest), name
        dense = found["ZeRO 0"][1]
        for name in ("ZeRO 3", "ZeRO 3, bf16", "FSDP", "FSDP, bf16"):
            # float32 weights, under ZeRO 3 beside those computed with and sums of gradients as large
            of_a_rank = (1 if "FSDP" in name else 2 if "bf16" in name else 3) / world_size
            assert found[name][1] == pytest.approx(of_a_rank * dense, rel=0.05), name
