"""A rank that generates text with several dispatch modes in turn; see `tests.multinode.decoding`.

All modes share one network: the attention, the norms, the cache and the sampling are the same code, and only the
feed-forward layers differ.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.model.values import initialised

SEED = 7
MAX_LOAD = 1.1
"""Cap on the busiest rank when placing, in means of a layer: where tokens gather, the others wait."""


@dataclass(frozen=True)
class Case:
    """What is generated.

    Attributes:
        hidden: width of a token.
        num_layers: blocks, all with experts.
        num_heads: attention heads.
        num_kv_heads: heads of keys and values.
        num_experts: experts of a layer.
        sequences: texts that each rank writes at once.
        num_tokens: tokens that each text is continued by in a round, at least 2.
        rounds: rounds, the modes in turn.
        weights: ema.safetensors of a trained run of these sizes, or None for initial weights.
    """

    hidden: int = 256
    num_layers: int = 8
    num_heads: int = 8
    num_kv_heads: int = 2
    num_experts: int = 8
    sequences: int = 16
    num_tokens: int = 24
    rounds: int = 5
    weights: str | None = None


class DeepSpeedFeedForward(nn.Module):
    """DeepSpeed's own MoE layer, one expert a token."""

    def __init__(self, case: Case, world_size: int, *, drops: bool) -> None:
        from deepspeed.moe.layer import MoE

        super().__init__()
        expert = nn.Sequential(
            nn.Linear(case.hidden, 4 * case.hidden, bias=False),
            nn.GELU(),
            nn.Linear(4 * case.hidden, case.hidden, bias=False),
        )
        self.layer = MoE(
            case.hidden,
            expert,
            num_experts=case.num_experts,
            ep_size=world_size,
            k=1,
            eval_capacity_factor=1.25,
            min_capacity=4,
            drop_tokens=drops,
            use_rts=False,
        )
        self.layer.set_deepspeed_parallelism()

    def forward(self, tokens_BND: Tensor) -> Tensor:
        return self.layer(tokens_BND)[0]


def main(folder: Path, case: Case) -> None:
    """Generates and, on rank 0, writes `decoding.json`."""
    from megatron.core import parallel_state

    from trainer.config.model.gpt import GPTConfig
    from trainer.model.gpt import GPT
    from trainer.model.network import NetworkSpec
    from trainer.sampling.text import generate

    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    dist.init_process_group("gloo")
    deepspeed.init_distributed("gloo", verbose=False)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    parallel_state.initialize_model_parallel(expert_model_parallel_size=world_size)
    sizes = GPTConfig(
        hidden=case.hidden, num_layers=case.num_layers, num_heads=case.num_heads, num_kv_heads=case.num_kv_heads
    )
    prompts = [text.encode() for text in texts(rank, case.sequences)]

    def ours(dispatch: str, slots_LE: np.ndarray) -> GPT:
        model = network(lambda layer: mixture(case, dispatch, layer, slots_LE[layer], world_size))
        if case.weights:
            from trainer.model.values import initialise_from

            initialise_from(model, Path(case.weights))
        return model

    def network(feed_forward: Callable[[int], nn.Module]) -> GPT:
        return initialised(GPT(NetworkSpec(config=sizes, state_shape=(), mixture=feed_forward)), SEED).eval()

    contiguous = np.tile(np.arange(case.num_experts), (case.num_layers, 1))
    home = ours("home", contiguous)
    placed, fractions = placement(home, prompts, case, world_size)
    models = {
        "coherent, placed": ours("coherent", placed),
        "coherent, contiguous": ours("coherent", contiguous),
        "home": home,
        "DeepSpeed-MoE, capacity 1.25": network(lambda _: DeepSpeedFeedForward(case, world_size, drops=True)),
        "DeepSpeed-MoE, no drops": network(lambda _: DeepSpeedFeedForward(case, world_size, drops=False)),
    }
    written: dict[str, list[list[int]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    first: dict[str, list[float]] = {name: [] for name in models}

    @torch.inference_mode()
    def timed(model: GPT, num_tokens: int) -> tuple[list[list[int]], float]:
        dist.barrier()
        begun = time.perf_counter()
        texts = generate(model, prompts, num_tokens, temperature=0.0, generator=torch.Generator().manual_seed(SEED))
        dist.barrier()
        return texts, time.perf_counter() - begun

    for turn in range(case.rounds + 1):
        for name, model in models.items():
            written[name], whole = timed(model, case.num_tokens)
            _, prompt = timed(model, 1)
            if turn:
                seconds[name].append(whole)
                first[name].append(prompt)
    same = torch.tensor(int(written["home"] == written["coherent, placed"] == written["coherent, contiguous"]))
    dist.all_reduce(same, op=dist.ReduceOp.MIN)
    if rank == 0:
        tokens = world_size * case.sequences * case.num_tokens
        figures: dict[str, Any] = {
            "case": asdict(case),
            "tokens_per_s": {name: tokens / median(times) for name, times in seconds.items()},
            "range_tokens_per_s": {name: [tokens / max(s), tokens / min(s)] for name, s in seconds.items()},
            "prompts_ms": {name: 1e3 * median(times) for name, times in first.items()},
            "step_ms": {
                name: 1e3 * (median(times) - median(first[name])) / (case.num_tokens - 1)
                for name, times in seconds.items()
            },
            "cross_rank_moves": fractions,
            "modes_write_the_same": bool(same),
        }
        (folder / "decoding.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    dist.barrier()
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def mixture(case: Case, dispatch: Any, layer: int, slots: np.ndarray, world_size: int) -> nn.Module:
    """Our MoE layer in one dispatch mode; its weights do not depend on mode and placement."""
    from moe.coherent_layer import CoherentMoELayer
    from moe.config import MoEConfig, TopKRouterConfig
    from moe.layer import PlacedMoELayer, transformer_config

    config = MoEConfig(
        num_experts=case.num_experts,
        expert_hidden=4 * case.hidden,
        router=TopKRouterConfig(aux_loss=0.0),
        dispatch=dispatch,
    )
    megatron = transformer_config(
        config,
        hidden=case.hidden,
        num_layers=case.num_layers,
        num_heads=case.num_heads,
        expert_parallel=world_size,
        dtype=torch.float32,
    )
    layer_type = CoherentMoELayer if dispatch == "coherent" else PlacedMoELayer
    return layer_type(config, megatron, layer, SEED, slots)


def placement(home: Any, prompts: list[bytes], case: Case, world_size: int) -> tuple[np.ndarray, dict[str, float]]:
    """Places the experts by the routes of the prompts' bytes, all ranks together.

    Returns:
        Logical expert of each slot, [layers, experts], and the share of moves between ranks, contiguous and placed.
    """
    from moe.placement.cost.evaluation import evaluate
    from moe.placement.counts import RoutingStatistics
    from moe.placement.ranks import contiguous_ranks
    from moe.placement.solver.solve import solve
    from moe.placement.topology import Topology
    from moe.routing_trace import RoutingHeader, RoutingTrace

    chosen: list[Tensor] = []
    layers = [block.feed_forward for block in home.blocks]
    hooks = [
        layer.get_submodule("router").register_forward_hook(
            lambda _m, _i, out: chosen.append(out[1].int().argmax(dim=1))
        )
        for layer in layers
    ]
    length = min(map(len, prompts))
    with torch.no_grad():
        home(torch.tensor([list(prompt[:length]) for prompt in prompts]))
    for hook in hooks:
        hook.remove()
    ids_LT = torch.stack(chosen)
    gathered = [torch.empty_like(ids_LT) for _ in range(world_size)]
    dist.all_gather(gathered, ids_LT)
    ids_TL = torch.cat(gathered, dim=1).T.numpy()
    header = RoutingHeader(
        num_experts=case.num_experts, num_layers=case.num_layers, top_k=1, world_size=world_size, model="gpt"
    )
    source = np.repeat(np.arange(world_size), ids_LT.shape[1])
    topology = Topology.hops(world_size, 1)
    statistics = RoutingStatistics.collect(RoutingTrace(ids_TL[:, :, None], source, header), world_size)
    found = solve(statistics, topology, objective="coherent", max_load=MAX_LOAD)
    baseline = contiguous_ranks(case.num_layers, case.num_experts, world_size)
    fractions = {
        "contiguous": evaluate(statistics, topology, baseline, "coherent").cross_rank,
        "placed": evaluate(statistics, topology, found.expert_ranks(), "coherent").cross_rank,
    }
    return np.stack([found.slot_to_expert(layer) for layer in range(case.num_layers)]), fractions


def texts(rank: int, count: int) -> list[str]:
    """Beginnings of source files, another set on each rank."""
    import sysconfig

    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [path.read_text(encoding="utf-8", errors="replace")[100:164] for path in files[rank::7][:count]]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), Case(**json.loads(sys.argv[2])))
