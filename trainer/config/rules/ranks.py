"""What ranks cannot share, and what an engine or a dispatch mode cannot do."""

import math

from moe.config import MoEConfig, SparseOTRouterConfig, TopKRouterConfig
from trainer.config.network.sizes import divisors
from trainer.config.rules.objection import Objections
from trainer.config.run import RunConfig
from trainer.config.sections import DeepSpeedConfig, FSDPConfig

MOST_EXPERTS = 262_144
"""Of all layers together: each has names and shapes of its own in checkpoints."""


def of_tensor(config: RunConfig, world_size: int) -> Objections:
    """Matrices that cannot be shared as `parallel.tensor` says."""
    tensor = config.parallel.tensor
    if tensor == 1:
        return
    yield from _of_groups("parallel.tensor", tensor, world_size)
    widths = config.model.shared_widths(mixture=config.moe is not None)
    if not widths:
        yield "parallel.tensor", f"{tensor} ranks {config.model.no_division}", "use 1"
    for field, width in widths.items():
        if width % tensor:
            problem = f"{tensor} ranks do not divide {field} {width} among them"
            yield "parallel.tensor", problem, f"use one of {divisors(math.gcd(*widths.values()))}, or another {field}"
    if config.moe is not None:
        problem = f"{tensor} ranks would send the same tokens to the experts {tensor} times"
        yield "parallel.tensor", problem, "use 1 with a moe section, and parallel.expert to divide the experts"


def of_experts(config: RunConfig, world_size: int) -> Objections:
    """Experts that cannot be shared as `parallel.expert` says."""
    expert, layers, moe = config.parallel.expert, config.model.num_layers, config.moe
    if moe is not None and moe.num_experts * layers > MOST_EXPERTS:
        problem = f"{moe.num_experts} in each of {layers} layers are more than the {MOST_EXPERTS:,} that are possible"
        yield "moe.num_experts", problem, f"use {MOST_EXPERTS // layers} or less, or fewer layers"
    if moe is None and expert > 1:
        yield "parallel.expert", f"{expert} ranks share experts that the model does not have", "use 1"
    else:
        yield from _of_groups("parallel.expert", expert, world_size)
    if moe is not None and moe.num_experts % expert:
        problem = f"{moe.num_experts} experts do not divide among parallel.expert {expert} ranks"
        yield "moe.num_experts", problem, f"use {expert * max(1, round(moe.num_experts / expert))}"


def _of_groups(field: str, size: int, world_size: int) -> Objections:
    if world_size % size:
        count = "is one" if world_size == 1 else f"are {world_size}"
        remedy = "use 1" if world_size == 1 else f"use one of {divisors(world_size)}"
        problem = f"{size} needs a multiple of {size} ranks, and there {count}"
        yield field, problem, f"{remedy}, or start {size} ranks or a multiple"


def expert_nodes(config: RunConfig, ranks_per_node: int) -> int:
    """Nodes of a group of ranks that share experts, as the dispatch sees them: 1 unless it is hierarchical."""
    expert = config.parallel.expert
    if config.moe is None or config.moe.dispatch != "hierarchical" or ranks_per_node % expert == 0:
        return 1
    if expert % ranks_per_node:
        raise ValueError(
            f"parallel.expert: {expert} ranks that share experts lie unevenly on nodes of {ranks_per_node} ranks, and "
            f"moe.dispatch hierarchical needs as many on each; use a multiple of {ranks_per_node}, or dispatch copies"
        )
    return expert // ranks_per_node


def of_engine(config: RunConfig) -> Objections:
    """Settings that the engine and the rest of the run do not allow together."""
    engine, model = config.engine, config.model
    if engine.compile:
        field, problem = "engine.compile", "true makes one graph of a block, and"
        if model.no_compilation is not None:
            yield field, f"{problem} {model.no_compilation}", "use false, or a dit"
        if config.moe is not None:
            counts = "how many tokens an expert gets is known only while it runs"
            yield field, f"{problem} {counts}", "use false, or a dense model"
        if config.parallel.tensor > 1:
            sums = "ranks that share its matrices add up their sums in the midst of it"
            yield field, f"{problem} {sums}", "use false, or parallel.tensor=1"
        if isinstance(engine, DeepSpeedConfig) and engine.zero_stage == 3:
            gathers = "ZeRO 3 gathers parameters in the midst of it"
            yield field, f"{problem} {gathers}", "use false, zero_stage 0, 1 or 2, or engine.kind=fsdp"
    match engine:
        case DeepSpeedConfig(zero_stage=3, activation_checkpointing=True) if model.no_repetition_in_zero_3:
            problem = (
                "true computes a block again while its backward pass runs, and ZeRO 3 then "
                f"{model.no_repetition_in_zero_3}"
            )
            yield "engine.activation_checkpointing", problem, "use false, or zero_stage 0, 1 or 2"
    match engine:
        case DeepSpeedConfig(zero_stage=3) if config.moe is not None:
            yield "engine.zero_stage", "3 shards parameters, which DeepSpeed refuses for experts", "use 0, 1 or 2"
        case DeepSpeedConfig(zero_stage=0, precision="bf16"):
            yield "engine.precision", "bf16 keeps its fp32 weights in the ZeRO optimiser", "use zero_stage 1 to 3"
        case FSDPConfig() if config.moe is not None:
            problem = "fsdp divides every parameter over all ranks, and an expert lives on some of them"
            yield "engine.kind", problem, "use deepspeed with zero_stage 0, 1 or 2, or a dense model"


def of_dispatch(config: RunConfig) -> Objections:
    """Coherent dispatch needs tokens that can stay on the rank of their expert, capped dispatch a router with a cap."""
    moe = config.moe
    if moe is None:
        return
    if moe.dispatch == "capped" and moe.router.cap is None:
        limit, remedy = _unlimited(moe)
        yield "moe.dispatch", f"capped sends as many rows as an expert may take, and {limit}", remedy
    if moe.dispatch == "capped" and moe.migration is not None:
        problem = (
            f"{moe.migration.every} would move experts to save traffic, and capped dispatch sends the same wherever "
            "they are"
        )
        yield "moe.migration.every", problem, "leave moe.migration out, or use dispatch home or copies"
    if moe.dispatch != "coherent":
        return
    if not config.model.moves_tokens:
        problem = (
            f"coherent keeps a token on the rank of its expert, and attention in a {config.model.kind} needs all "
            "patches of an image on one rank"
        )
        yield "moe.dispatch", problem, "use home or copies, or a gpt model"
    if moe.router.dropping is not None:
        field, value = moe.router.dropping
        problem = f"{value} leaves tokens without an expert, and in coherent dispatch a token is where its expert is"
        remedy = "use a router that drops none, such as top_k without capacity_factor, or dispatch home"
        yield f"moe.router.{field}", problem, remedy


def _unlimited(moe: MoEConfig) -> tuple[str, str]:
    """Why a router has no limit for the tokens of a rank, and the remedy."""
    match moe.router:
        case TopKRouterConfig():
            limit = "moe.router.capacity_factor null sets no limit"
            return limit, "set one, such as 1.25, or use dispatch home"
        case SparseOTRouterConfig(potentials=potentials):
            limit = f"moe.router.potentials {potentials} limits an expert over all ranks, not over each"
            return limit, "use potentials rank, or dispatch home"
    limit = f"moe.router.kind {moe.router.kind} has no limit"
    return limit, "use sparse_ot, expert_choice, base or top_k with capacity_factor, or dispatch home"
