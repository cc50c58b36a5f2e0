"""How fast the parts of a run are on this card, beside what the card can do."""

import copy
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from tests.gpu.measure import Measure, milliseconds
from tests.gpu.networks import TOKENS, diffusion_transformer, forward_flops, loss_of

DEVICE = torch.device("cuda")
EXPERTS, ROWS, WIDTH, INNER, ROUTED = 64, 32_768, 2048, 4096, 16_384


def measures() -> Iterator[Measure]:
    """Times the parts; alone in a process group of one rank over NCCL."""
    peak = _product_ceiling()
    yield Measure("ceiling: product of matrices in bf16", peak / 1e12, "TFLOP/s")
    yield Measure("ceiling: copy", _copy_ceiling() / 1e9, "GB/s")
    yield from _transformer(peak)
    yield from _experts(peak)
    yield from _layer()
    yield from _waits()
    yield from _memory()
    yield from _checkpoint()


def _product_ceiling() -> float:
    side = 8192
    left, right = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / (milliseconds(lambda: left @ right) / 1e3)


def _copy_ceiling() -> float:
    source = torch.empty(1 << 30, device=DEVICE, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds(lambda: target.copy_(source)) / 1e3)


def _transformer(peak: float) -> Iterator[Measure]:
    """A transformer of 1.2 billion parameters on 16,384 tokens."""
    examples = 16_384 // TOKENS
    network = diffusion_transformer(hidden=2048, layers=16, dtype=torch.bfloat16, device=DEVICE)
    operations = 3 * forward_flops(network) * examples
    for name, bound in (("eager", 0.30), ("compiled", 0.45)):
        if name == "compiled":
            for block in network.blocks:
                block.compile()

        def step() -> None:
            network.zero_grad()
            loss_of(network, examples).backward()

        share = operations / (milliseconds(step, 10) / 1e3) / peak
        yield Measure(f"DiT of width 2048 and 16 blocks, {name}: share of the ceiling", share, "", bound, "at least")


def _experts(peak: float) -> Iterator[Measure]:
    """Both matrix products of 64 experts, forward and backward, by groups and block by block."""
    from moe.experts import BlockedExperts, GroupedExperts

    rows = torch.randn(ROWS, WIDTH, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    gates = torch.rand(ROWS, device=DEVICE, requires_grad=True)
    first = torch.randn(EXPERTS, INNER, WIDTH, device=DEVICE, dtype=torch.bfloat16).mul_(0.02).requires_grad_()
    second = torch.randn(EXPERTS, WIDTH, INNER, device=DEVICE, dtype=torch.bfloat16).mul_(0.02).requires_grad_()
    counts = torch.multinomial(torch.rand(EXPERTS, device=DEVICE), ROWS, replacement=True).bincount(minlength=EXPERTS)
    on_host = counts.tolist()

    def by_groups() -> Tensor:
        return GroupedExperts.apply(rows, gates, counts, first, second)

    def by_blocks() -> Tensor:
        return BlockedExperts.apply(rows, gates, on_host, first, second)

    grouped, blocked = (milliseconds(lambda act=act: act().sum().backward(), 10) for act in (by_groups, by_blocks))
    operations = 3 * 2 * 2 * ROWS * WIDTH * INNER
    yield Measure("64 experts: share of the ceiling", operations / (grouped / 1e3) / peak, "", 0.60, "at least")
    yield Measure("64 experts: times faster than block by block", blocked / grouped, "x", 2.0, "at least")


def _moe_layer(router: dict[str, Any], dispatch: str) -> Any:
    from moe.config import MoEConfig
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(num_experts=EXPERTS, top_k=2, expert_hidden=INNER, router=router, dispatch=dispatch)  # pyright: ignore[reportArgumentType]
    megatron = transformer_config(
        config, hidden=WIDTH, num_layers=1, num_heads=16, expert_parallel=1, dtype=torch.bfloat16
    )
    return PlacedMoELayer(config, megatron, 0, 0, np.arange(EXPERTS)).to(DEVICE).train()


def _layer() -> Iterator[Measure]:
    """A whole layer of 64 experts on 16,384 tokens, and its router alone."""
    tokens = torch.randn(ROUTED, 1, WIDTH, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    for router, dispatch in (({"kind": "top_k"}, "home"), ({"kind": "sparse_ot"}, "capped")):
        layer = _moe_layer(router, dispatch)
        whole = milliseconds(lambda layer=layer: layer(tokens).sum().backward(), 10)
        seen: list[tuple[Any, ...]] = []
        hook = layer.experts.register_forward_pre_hook(lambda _, values, seen=seen: seen.append(values))
        layer(tokens)
        hook.remove()
        rows, counts, gates = (value.detach() for value in seen[0])
        rows.requires_grad_()
        experts = milliseconds(
            lambda layer=layer, given=(rows, counts, gates): layer.experts(*given)[0].sum().backward(), 10
        )
        name = f"MoE layer, {router['kind']}, {dispatch}"
        yield Measure(f"{name}: share outside the experts", 1 - experts / whole, "", 0.25)
        routing = milliseconds(lambda layer=layer: layer.router(tokens.detach()))
        bound = 0.6 if router["kind"] == "sparse_ot" else None
        yield Measure(f"{name}: router forward", routing, "ms", bound)


def waits_of(act: Any) -> int:
    """How often a call makes the host wait for the device, as far as torch warns of it."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            act()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in found)


def _waits() -> Iterator[Measure]:
    for router, dispatch, bound in (({"kind": "top_k"}, "home", 1), ({"kind": "sparse_ot"}, "capped", 0)):
        layer = _moe_layer(router, dispatch)
        tokens = torch.randn(ROUTED, 1, WIDTH, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
        act = lambda layer=layer, tokens=tokens: layer(tokens).sum().backward()  # noqa: E731
        act()
        yield Measure(f"MoE layer, {router['kind']}, {dispatch}: times the host waits", waits_of(act), "", bound)


def _memory() -> Iterator[Measure]:
    """What `check` tells of a run, against what the card's allocator saw."""
    from tests.gpu.runs import CASES, train
    from trainer.config.rules.plan import plan_layout
    from trainer.experiment.forecast.memory import Estimator

    for name in ("dit, ZeRO 1", "dit, FSDP2", "dit, top_k, home"):
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            config = copy.deepcopy(CASES[name]).config(Path(folder))
            told = Estimator().memory(config, plan_layout(config, 1)).peak.total
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            train(0, 1, config)
            seen = torch.cuda.max_memory_allocated() - before
        yield Measure(f"memory told of {name}, over what was seen", told / seen - 1, "", 0.05)


def _checkpoint() -> Iterator[Measure]:
    """How long a copy of 16 GB to the host holds the device, as an asynchronous checkpoint makes it."""
    values = [torch.empty(1 << 28, device=DEVICE) for _ in range(16)]
    begun = time.perf_counter()
    for value in values:
        value.to("cpu", copy=True)
    torch.cuda.synchronize()
    yield Measure("stall of an asynchronous checkpoint of 16 GiB", time.perf_counter() - begun, "s", 1.5)


def alone() -> None:
    """Makes the process groups of one rank."""
    from trainer.distributed.groups import divide_ranks

    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    torch.cuda.set_device(0)
    divide_ranks(1, 1)
    functional.gelu(torch.zeros(1, device=DEVICE))
