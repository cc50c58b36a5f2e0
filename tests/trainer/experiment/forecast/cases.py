"""Runs whose memory is told and measured: every engine, precision, recomputation and kind of network."""

from collections.abc import Iterator
from typing import Any

HIDDEN, LAYERS = 256, 4
BATCH = 32
_EXPERTS = {"num_experts": 8, "top_k": 2, "expert_hidden": HIDDEN, "router": {"kind": "sparse_ot"}}
NETWORKS: dict[str, dict[str, Any]] = {
    "dit": {"model": {"kind": "dit", "num_heads": 4, "patch_size": 2}, "data": {"kind": "digits"}},
    "mlp": {"model": {"kind": "mlp"}, "data": {"kind": "toy"}},
    "gpt": {"model": {"kind": "gpt", "num_heads": 4, "context": 32}, "data": {"context": 32}},
    **{
        f"mixture {dispatch}": {
            "model": {"kind": "dit", "num_heads": 4, "patch_size": 2},
            "data": {"kind": "digits"},
            "moe": {**_EXPERTS, "dispatch": dispatch},
        }
        for dispatch in ("home", "copies", "capped")
    },
}
ENGINES: dict[str, dict[str, Any]] = {
    "zero 0": {"zero_stage": 0},
    "zero 1": {"zero_stage": 1},
    "zero 2": {"zero_stage": 2},
    "zero 3": {"zero_stage": 3},
    "fsdp": {"kind": "fsdp"},
}


def document(
    network: str,
    engine: str,
    precision: str,
    *,
    recomputes: bool = False,
    micro_batch: int | None = None,
    expert: int = 1,
) -> dict[str, Any]:
    """The sections of a case."""
    of_network = NETWORKS[network]
    return {
        "run": {"dir": "unused"},
        **of_network,
        "model": {**of_network["model"], "hidden": HIDDEN, "num_layers": LAYERS},
        "optim": {"steps": 10, "global_batch": BATCH, "micro_batch": micro_batch},
        "engine": {**ENGINES[engine], "precision": precision, "activation_checkpointing": recomputes},
        "parallel": {"expert": expert},
        "observe": {"tensorboard": False},
    }


def legal(ranks: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every legal combination, by its name."""
    for network in NETWORKS:
        mixture = network.startswith("mixture")
        for engine in ENGINES:
            for precision in ("fp32", "bf16"):
                if (mixture and engine in ("zero 3", "fsdp")) or (engine, precision) == ("zero 0", "bf16"):
                    continue
                for recomputes in (False,) if (network, engine) == ("gpt", "zero 3") else (False, True):
                    name = f"{network}, {engine}, {precision}{', recomputed' * recomputes}"
                    expert = min(2, ranks) if mixture else 1
                    yield name, document(network, engine, precision, recomputes=recomputes, expert=expert)
