"""The division of a run over its ranks, decided and checked before any process group exists."""

import math
from dataclasses import replace
from pathlib import Path

from moe.config import MoEConfig, SparseOTRouterConfig, TopKRouterConfig
from moe.placement.placement import Placement, objective_of
from moe.replica import Slots
from netsim.foundation.refusal import Refusal
from trainer.config.layout import Layout
from trainer.config.model.protocol import divisors
from trainer.config.rules import drawing, pairing, parts, states, tasks
from trainer.config.rules.objection import Objections, Validation, caught, errors, refuse, result_or_first
from trainer.config.run import RunConfig
from trainer.config.sections import DeepSpeedConfig, FSDPConfig
from trainer.data.loader import accumulation_steps


def plan_layout(config: RunConfig, world_size: int, *, ranks_per_node: int | None = None) -> Layout:
    """Divides a run over its ranks, or refuses it by its first objection or its placement file.

    `ranks_per_node` is for runs that set neither `trace.ranks_per_node` nor a placement; None: all ranks are on one
    node.
    """
    return result_or_first(validated_layout(config, world_size, ranks_per_node=ranks_per_node))


def validated_layout(config: RunConfig, world_size: int, *, ranks_per_node: int | None = None) -> Validation[Layout]:
    """Yields every objection to a run, that of :func:`plan_layout` first; returns the layout if there is none."""
    batch, micro_batch = config.optim.global_batch, config.optim.micro_batch
    data_parallel = world_size // config.parallel.tensor
    divides = not any(errors(of_tensor(config, world_size), of_experts(config, world_size)))
    uneven = micro_batch is None and divides and batch % data_parallel
    if micro_batch is None and divides and not uneven:
        micro_batch = batch // data_parallel
    objected = yield from errors(
        tasks.of_cycle(config),
        tasks.of_adapters(config),
        of_tensor(config, world_size),
        of_experts(config, world_size),
        of_engine(config),
        parts.of_objective(config),
        parts.of_causal_network(config),
        states.of_labels_in_state(config),
        states.of_encoded_captions(config),
        parts.of_composition(config),
        states.of_letters(config),
        states.of_clips(config),
        states.of_reactions(config),
        pairing.of_context(config),
        pairing.of_shapes(config),
        pairing.of_examples(config),
        pairing.of_mixture(config),
        drawing.of_guidance(config),
        drawing.of_grids(config),
        drawing.of_controls(config),
        drawing.of_samples(config, world_size),
        drawing.of_surfaces(config),
        of_dispatch(config),
        drawing.of_profile(config),
        pairing.of_pairing(config),
        pairing.of_source(config),
        parts.of_distillation(config),
        tasks.of_adjoint_matching(config),
        tasks.of_policy(config),
        tasks.of_surrogate(config),
        tasks.of_clustering(config),
        *([caught(accumulation_steps, batch, 1, data_parallel)] if uneven else ()),
        pairing.of_times(config, micro_batch),
        parts.of_one_step(config, micro_batch),
        states.of_rows_together(config, micro_batch),
        parts.of_blocks(config, micro_batch),
        tasks.of_contrastive(config, micro_batch),
    )
    if not divides:
        return None
    nodes = config.trace.ranks_per_node or ranks_per_node or world_size
    placement = yield from caught(_placement, config, nodes)
    accumulation = None
    if micro_batch is not None:
        accumulation = yield from caught(accumulation_steps, batch, micro_batch, data_parallel)
    unplaced = config.moe is not None and placement is None
    if objected or unplaced or micro_batch is None or accumulation is None:
        return None
    return replace(_divided(config, world_size, placement), micro_batch=micro_batch, accumulation=accumulation)


def plan_sampling(config: RunConfig, world_size: int, *, ranks_per_node: int) -> Layout:
    """Shares a network among ranks that draw from it, one example a pass, whatever batches and engine train it."""
    refuse(
        tasks.of_adapters(config),
        of_tensor(config, world_size),
        of_experts(config, world_size),
        states.of_labels_in_state(config),
        states.of_encoded_captions(config),
        parts.of_composition(config),
        states.of_letters(config),
        states.of_clips(config),
        states.of_reactions(config),
        pairing.of_context(config),
        of_dispatch(config),
        pairing.of_source(config),
    )
    return _divided(config, world_size, _placement(config, config.trace.ranks_per_node or ranks_per_node))


def _divided(config: RunConfig, world_size: int, placement: Placement | None) -> Layout:
    tensor, expert = config.parallel.tensor, config.parallel.expert
    return Layout(
        world_size=world_size,
        expert_parallel=expert,
        expert_data_parallel=world_size // tensor // expert,
        tensor_parallel=tensor,
        placement=placement,
        relay_ranks=None if config.moe is None or placement is None else placement.relay_ranks(config.moe.dispatch),
    )


def _placement(config: RunConfig, ranks_per_node: int) -> Placement | None:
    if config.moe is None:
        return None
    num_layers, num_experts, expert = config.model.num_layers, config.moe.num_experts, config.parallel.expert
    path = config.moe.placement
    if path is None:
        nodes, dispatch = expert_nodes(config, ranks_per_node), objective_of(config.moe.dispatch)
        return Placement.contiguous(num_layers, num_experts, nodes, expert // nodes, dispatch=dispatch)
    placement = Placement.read(path)
    for field, value, wanted in (
        ("num_layers", placement.num_layers, num_layers),
        ("num_experts", placement.num_experts, num_experts),
        ("num_nodes x ranks_per_node", placement.num_ranks, expert),
    ):
        if value != wanted:
            problem = f"is {value} but the run has {wanted}"
            raise Refusal(path, field, problem, "place this run's own trace (python -m moe place)")
    return with_homes_first(placement, path, config.moe.dispatch)


def with_homes_first(placement: Placement, path: Path, dispatch: str) -> Placement:
    """Orders the slots of a placement with replicas as training keeps them: on every rank homes first."""
    if not placement.has_replicas:
        return placement
    slots_of_group = placement.slots_per_rank * placement.num_ranks
    refuses = {
        "coherent": "in coherent dispatch a token is where its one expert is",
        "capped": "capped dispatch would send empty rows to each of them",
    }
    if dispatch in refuses:
        raise Refusal(
            path,
            "rank_experts",
            f"has replicas ({slots_of_group} slots for {placement.num_experts} experts), and {refuses[dispatch]}",
            "place without replicas, or set moe.dispatch to home, copies or hierarchical",
        )
    layers = []
    for layer in range(placement.num_layers):
        try:
            slots = Slots.of(placement.slot_to_expert(layer), placement.num_experts, placement.num_ranks)
        except ValueError as error:
            problem, _, remedy = str(error).removeprefix("slot_to_expert: ").partition("; ")
            raise Refusal(path, f"rank_experts.{layer}", problem, remedy) from error
        layers.append(tuple(map(tuple, slots.experts.tolist())))
    return placement.model_copy(update={"rank_experts": tuple(layers)})


def describe(config: RunConfig, layout: Layout) -> str:
    """One line for a person: how the run is divided."""
    ranks = f"{layout.world_size} rank{'s' * (layout.world_size > 1)}"
    experts = ""
    if layout.tensor_parallel > 1:
        experts = f" = tensor {layout.tensor_parallel} x data {layout.data_parallel}"
    if config.moe is not None:
        experts = (
            f" = expert {layout.expert_parallel} x expert data {layout.expert_data_parallel}, "
            f"{config.moe.num_experts // layout.expert_parallel} of {config.moe.num_experts} experts a rank and layer, "
            f"{config.moe.dispatch} dispatch"
        )
        if layout.placement is not None and layout.placement.has_replicas:
            replicas = layout.placement.slots_per_rank - config.moe.num_experts // layout.expert_parallel
            experts += f", {replicas} replica{'s' * (replicas > 1)} more ({config.moe.replicas})"
    if layout.relay_ranks is not None:
        experts += f" over {layout.expert_parallel // layout.relay_ranks} nodes of {layout.relay_ranks}"
    return (
        f"{ranks}{experts}; batch {config.optim.global_batch} = {layout.micro_batch} x {layout.accumulation} micro "
        f"x {layout.data_parallel}; {config.engine.label}"
    )


MOST_EXPERTS = 262_144
"""Most experts in all layers together, since each has names and shapes of its own in checkpoints."""


def of_tensor(config: RunConfig, world_size: int) -> Objections:
    """Objects to matrices that cannot be shared as `parallel.tensor` says."""
    tensor = config.parallel.tensor
    if tensor == 1:
        return
    yield from _of_groups("parallel.tensor", tensor, world_size)
    widths = config.model.shared_widths(mixture=config.moe is not None)
    if not widths:
        yield "parallel.tensor", f"{tensor} ranks cannot share the matrices of this network", "use 1"
    for field, width in widths.items():
        if width % tensor:
            problem = f"{tensor} ranks do not divide {field} {width} among them"
            yield "parallel.tensor", problem, f"use one of {divisors(math.gcd(*widths.values()))}, or another {field}"
    if config.moe is not None:
        problem = f"{tensor} ranks would send the same tokens to the experts {tensor} times"
        yield "parallel.tensor", problem, "use 1 with a moe section, and parallel.expert to divide the experts"


def of_experts(config: RunConfig, world_size: int) -> Objections:
    """Objects to experts that cannot be shared as `parallel.expert` says."""
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
    """Objects to settings that the engine and the rest of the run do not allow together."""
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
    """Objects to coherent dispatch if tokens cannot stay on their expert's rank, and capped dispatch without a cap."""
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
    """Returns why a router has no cap on the tokens of a rank, and the remedy."""
    match moe.router:
        case TopKRouterConfig():
            limit = "moe.router.capacity_factor null sets no limit"
            return limit, "set one, such as 1.25, or use dispatch home"
        case SparseOTRouterConfig(potentials=potentials):
            limit = f"moe.router.potentials {potentials} limits an expert over all ranks, not over each"
            return limit, "use potentials rank, or dispatch home"
    limit = f"moe.router.kind {moe.router.kind} has no limit"
    return limit, "use sparse_ot, expert_choice, base or top_k with capacity_factor, or dispatch home"
