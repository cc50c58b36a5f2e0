"""Short runs of the real loop on one rank: python -m tests.gpu.runs OUT [CASE...]

The rank computes on the GPU, or on the CPU where CUDA_VISIBLE_DEVICES is empty.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.trainer.parallel_runs import DENSE, Division, train

ENGINES: dict[str, dict[str, Any]] = {
    **{f"ZeRO {stage}": {"zero_stage": stage} for stage in range(4)},
    "FSDP2": {"kind": "fsdp"},
}
ROUTERS: dict[str, dict[str, Any]] = {
    "top_k": {"kind": "top_k"},
    "sinkhorn": {"kind": "sinkhorn"},
    "base": {"kind": "base"},
    "expert_choice": {"kind": "expert_choice"},
    "sparse_ot": {"kind": "sparse_ot"},
}
CAPPED = ("expert_choice", "base", "sparse_ot")
EXPERTS = {"num_experts": 4, "expert_hidden": 32}


def _mixture(network: str, router: str, dispatch: str, engine: str) -> Division:
    top_k = 1 if router == "base" else 2
    moe = {**EXPERTS, "top_k": top_k, "router": ROUTERS[router], "dispatch": dispatch}
    return Division(network, engine=ENGINES[engine], moe=moe)


CASES: dict[str, Division] = {
    **{
        f"{network}, {engine}": Division(network, engine=ENGINES[engine]) for network in DENSE for engine in ("ZeRO 1",)
    },
    **{f"dit, {engine}": Division("dit", engine=settings) for engine, settings in ENGINES.items()},
    **{f"gpt, {engine}": Division("gpt", engine=settings) for engine, settings in ENGINES.items()},
    "dit, FSDP2, bf16": Division("dit", engine={"kind": "fsdp", "precision": "bf16"}),
    "dit, ZeRO 2, bf16": Division("dit", engine={"zero_stage": 2, "precision": "bf16"}),
    **{
        f"dit, {router}, {dispatch}": _mixture("dit", router, dispatch, "ZeRO 1")
        for router in ROUTERS
        for dispatch in ("home", "copies", *(("capped",) if router in CAPPED else ()))
    },
    **{f"dit, top_k, home, {engine}": _mixture("dit", "top_k", "home", engine) for engine in ("ZeRO 0", "ZeRO 2")},
    "gpt, top_k, coherent": _mixture("gpt", "top_k", "coherent", "ZeRO 1"),
}
"""A short run of every network, and of every router with every dispatch and engine that it has."""


def main(out: Path, names: list[str]) -> None:
    """Runs cases one after the other and writes the figures of their steps.

    Args:
        out: folder; the figures go to `figures.json` in it.
        names: of the cases; none: all.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    figures: dict[str, Any] = {}
    for number, name in enumerate(names or CASES, start=1):
        case = copy.deepcopy(CASES[name])
        try:
            steps, weights = train(0, 1, case.config(out / f"case_{number}"))
            largest = max(float(values.abs().max()) for values in weights.values())
            figures[name] = {"steps": steps, "largest_weight": largest}
        except Exception as error:  # the others are still worth knowing
            figures[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
        print(f"{number} of {len(names or CASES)}: {name}: {figures[name].get('error', 'done')}", flush=True)
    figures["recorded collectives"] = _recorded()
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    dist.destroy_process_group()


def _recorded() -> int:
    """Collectives that torch's flight recorder still knows."""
    from trainer.distributed.process.debug import flights

    return len(json.loads(flights() or b"{}").get("entries") or ())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
