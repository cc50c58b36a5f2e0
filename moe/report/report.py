"""The report of a placement: saving and dispatch mode, volume in bytes, and the experts that have to move."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe.placement.cost.evaluation import Evaluation
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.topology import Topology
from moe.report.context import Context
from moe.report.figures import BlockMap, block_maps, cost_by_layer, load_maps
from moe.report.moving_section import moving_section
from moe.report.page import Block, Facts, Figure, Note, Section, Table, page
from moe.report.summary import DISPATCH_NAMES, share_saved, summarise
from moe.report.traffic_figures import affinity_strip, cost_bars, load_spread
from moe.report.volume_section import volume_section


def saving(placement: Placement) -> float:
    """Share of the contiguous cost that a placement saves, at most 1; negative where it costs more.

    Args:
        placement: A placement with a measured objective.

    Returns:
        1 - cost / contiguous_cost; 0 where contiguous costs nothing.
    """
    objective = placement.objective
    assert objective is not None
    return 1 - objective.cost / objective.contiguous_cost if objective.contiguous_cost else 0.0


def placement_report(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    before: Evaluation,
    placed: Evaluation,
    context: Context | None = None,
) -> str:
    """Compose the report page.

    Args:
        placement: The placement with its objective.
        statistics: Counts of the trace on which both are measured.
        topology: Ranks and costs.
        before: Traffic under the placement in use.
        placed: Traffic under this placement.
        context: Further information; by default that the placement in use is the contiguous one.

    Returns:
        A self-contained HTML document.
    """
    context = context or Context()
    mode = DISPATCH_NAMES[placement.dispatch]
    shape = f"{placement.num_nodes} x {placement.ranks_per_node} ranks"
    sections = placement_sections(placement, statistics, topology, before, placed, context)
    footer = (
        f"Solver {placement.solver.name}, seed {placement.solver.seed}. Measured on the trace that the placement was "
        f"made from (sha256 {placement.trace_sha256 or 'unknown'}); later tokens may be routed differently."
    )
    text = finding(placement, topology, before, placed)
    return page(f"Expert placement on {shape}", text, sections, kicker=f"Dispatch mode: {mode}", footer=footer)


def placement_sections(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    before: Evaluation,
    placed: Evaluation,
    context: Context | None = None,
) -> list[Section]:
    """Compose the sections of the report, for a page of their own or as part of another.

    Args:
        placement: The placement with its objective.
        statistics: Counts of the trace on which both are measured.
        topology: Ranks and costs.
        before: Traffic under the placement in use.
        placed: Traffic under this placement.
        context: What else is known.

    Returns:
        Sections on cost, bytes, traffic, load and moving experts.
    """
    context = context or Context()
    numbers = summarise(placement, statistics, topology, before, placed, context)
    sections = [
        _cost_section(placement, statistics, topology, before, placed, context, numbers),
        volume_section(numbers, context),
    ]
    if placement.dispatch != "coherent" and statistics.source_counts is not None:
        sections.append(_source_section(statistics.source_counts, before, placed, context.before))
    if statistics.num_layers > 1:
        sections.append(_affinity_section(placement, statistics, before, placed, context.before, numbers))
    sections.append(_load_section(placement, before, placed, context.before, numbers))
    if context.moving is not None:
        sections.append(moving_section(placement.num_layers, context.moving))
    return sections


def finding(placement: Placement, topology: Topology, before: Evaluation, placed: Evaluation) -> str:
    """Say in one sentence what the placement achieves.

    Args:
        placement: The placement.
        topology: Ranks and costs.
        before: Traffic under the placement in use.
        placed: Traffic under this placement.

    Returns:
        The sentence.
    """
    where = f"{DISPATCH_NAMES[placement.dispatch]} on {placement.num_nodes} x {placement.ranks_per_node} ranks"
    saved = share_saved(before, placed)
    replicas = ""
    if placement.has_replicas:
        replicas = f" {placement.slots_per_rank} slots a rank hold replicas of some."
    if not before.cost:
        return f"There is nothing to place: {where} moves no token between ranks."
    if placement.solver.name == "packing":
        return (
            f"Packing by load brings the busiest rank from {before.imbalance.max():.2f} to "
            f"{placed.imbalance.max():.2f} times the mean; the traffic of {where} goes from {before.cost:.3g} to "
            f"{placed.cost:.3g} {topology.unit} a token.{replicas}"
        )
    if not saved:
        if placement.objective is None or placement.objective.cost == placement.objective.contiguous_cost:
            return f"Experts stay contiguous: the search found nothing cheaper for {where}."
        return f"Experts may stay where they are: the search found nothing cheaper for {where}."
    verb = "cuts" if saved > 0 else "raises"
    return (
        f"Placing {placement.num_experts} experts a layer {verb} the traffic of {where} by {abs(saved):.0%}, from "
        f"{before.cost:.3g} to {placed.cost:.3g} {topology.unit} a token.{replicas}"
    )


def _cost_section(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    before: Evaluation,
    placed: Evaluation,
    context: Context,
    numbers: dict[str, Any],
) -> Section:
    objective = placement.objective
    assert objective is not None
    name = context.before
    known = not placement.has_replicas or objective.lower_bound > 0
    facts = Facts(
        (
            ("Traffic saved", f"{share_saved(before, placed):.1%}", f"against {name}"),
            *(_crossing(placement, before, placed, place, name) for place in ("rank", "node")),
            (
                "Certified gap",
                f"{objective.gap:.1%}" if known else "unknown",
                "better search saves at most this" if known else "no bound is known with replicas",
            ),
            ("Tokens", f"{statistics.num_tokens:,}", f"{statistics.skipped:,} moves skip a dropped layer"),
        )
    )
    blocks: list[Block] = [facts, Note(numbers["law"])]
    if objective.contiguous_cost or before.cost:
        costs = {"contiguous": objective.contiguous_cost, name: before.cost, "placed": placed.cost}
        costs |= {"lower bound": objective.lower_bound} if known else {}
        caption = "Cost per token over all layers. The lower bound holds for every placement; it may not be reachable."
        blocks.append(Figure(cost_bars(costs, topology.unit), caption, half=True))
        first = 1 if placement.dispatch == "coherent" and statistics.num_layers > 1 else 0
        layers = cost_by_layer(
            before.cost_by_layer[first:], placed.cost_by_layer[first:], topology.unit, first_layer=first, name=name
        )
        blocks.append(Figure(layers, "The same cost by the layer in which it arises.", half=True))
    saved = share_saved(before, placed)
    title = f"{saved:.0%} of the cost is saved" if saved >= 0.005 else "What it costs"
    return Section(title, blocks)


def _crossing(
    placement: Placement, before: Evaluation, placed: Evaluation, place: str, name: str
) -> tuple[str, str, str]:
    title = f"To another {place}"
    if placement.dispatch == "copies":  # fewer copies in all: a share of them would hide that
        first = 1 if place == "rank" else 2
        now, then = (traffic.moves_by_link[:, first:].sum() for traffic in (before, placed))
        return title, f"{then:.2f}", f"moves of a token, both ways; {name} {now:.2f}"
    now, then = (traffic.cross_rank if place == "rank" else traffic.cross_node for traffic in (before, placed))
    return title, f"{then:.1%}", f"of the moves; {name} {now:.1%}"


def _affinity_section(
    placement: Placement,
    statistics: RoutingStatistics,
    before: Evaluation,
    placed: Evaluation,
    name: str,
    numbers: dict[str, Any],
) -> Section:
    gaps = range(statistics.num_layers - 1)
    maps_before, maps_placed = (
        [
            BlockMap(statistics.transitions[gap], traffic.expert_ranks[gap], traffic.expert_ranks[gap + 1])
            for gap in gaps
        ]
        for traffic in (before, placed)
    )
    titles = [f"layer {gap} to {gap + 1}" for gap in gaps]
    caption = (
        "Each row: where the tokens of one expert go in the next layer, the transition probabilities. Experts are "
        "sorted by the rank that holds them; orange frames are moves that stay on a rank."
    )
    if placement.has_replicas:
        caption += " A replicated expert is shown on the first of its ranks."
    picture = Figure(
        block_maps(titles, maps_before, maps_placed, "expert of the layer", "expert of the next layer", name=name),
        caption,
    )
    slots, affinity = placement.slots_per_rank, numbers["affinity"]
    stays = [[block_map.staying for block_map in maps] for maps in (maps_before, maps_placed)]
    if placement.has_replicas and placement.dispatch == "coherent":
        stays[1] = [float(np.trace(moves) / max(moves.sum(), 1)) for moves in placed.moves[0, 1:]]
    strip = affinity_strip(
        {
            "mutual information": affinity["mutual_information"],
            f"top {slots} successors": affinity["top_mass"],
            f"stays, {name}": stays[0],
            "stays, placed": stays[1],
        },
        first_layer=0,
    )
    rows = [
        (
            titles[gap],
            f"{affinity['mutual_information'][gap]:.3f}",
            f"{affinity['top_mass'][gap]:.1%}",
            f"{stays[0][gap]:.1%}",
            f"{stays[1][gap]:.1%}",
        )
        for gap in gaps
    ]
    table = Table(
        ("gap", "mutual information / log E", f"mass of the top {slots}", f"stays, {name}", "stays, placed"), rows
    )
    explained = (
        f"Mutual information as a share of log E: 0 no affinity, 1 fully determined. Chance to stay is "
        f"{affinity['chance_to_stay']:.1%}; the top {slots} successors of each expert are what one rank could keep if "
        "experts did not compete for it."
    )
    blocks = (Figure(strip, explained), picture, table)
    if placement.dispatch != "coherent":
        text = "For information: affinity does not change home-return traffic; context-coherent dispatch could use it."
        return Section("Affinity between consecutive layers", blocks, text)
    stays_before, stays_after = 1 - before.cross_rank, 1 - placed.cross_rank
    text = f"{stays_after:.0%} of the moves stay on their rank; with the {name} placement {stays_before:.0%} do."
    if stays_after > stays_before:
        return Section("Experts that follow each other share a rank", blocks, text)
    return Section("Affinity between consecutive layers", blocks, text)


def _source_section(sources: NDArray[np.int64], before: Evaluation, placed: Evaluation, name: str) -> Section:
    ranks = np.arange(sources.shape[1])
    maps_before, maps_placed = (
        [
            BlockMap(tokens.T, expert_ranks, ranks)
            for tokens, expert_ranks in zip(sources, traffic.expert_ranks, strict=True)
        ]
        for traffic in (before, placed)
    )
    titles = [f"layer {layer}" for layer in range(len(sources))]
    maps = Figure(
        block_maps(titles, maps_before, maps_placed, "expert", "rank of the token", name=name),
        "Each row: from which ranks the tokens of one expert come. Experts are sorted by the rank that holds them; "
        "orange frames are tokens that stay on their rank.",
    )
    return Section("Where the tokens of each expert come from", (maps,))


def _load_section(
    placement: Placement, before: Evaluation, placed: Evaluation, name: str, numbers: dict[str, Any]
) -> Section:
    loads = numbers["load_over_mean"]
    spread = load_spread(
        {"experts": loads["experts"], f"ranks, {name}": loads["ranks_before"], "ranks, placed": loads["ranks_placed"]}
    )
    caption = "Spread of the load in each layer, as multiples of its mean; a rank evens out what its experts differ by."
    maps = Figure(
        load_maps(before.rank_loads, placed.rank_loads, name=name),
        "Choices that each rank computes, relative to the mean of the layer: 1.00 is perfect balance. The busiest rank "
        "sets the pace of a layer.",
    )
    text = (
        f"That is the mean over the layers of the busiest rank's load; {name} {before.imbalance.mean():.2f}. In the "
        f"worst layer it is {placed.imbalance.max():.2f}; {name} {before.imbalance.max():.2f}."
    )
    if placement.solver.name != "packing":
        text += " The solver gives each rank the same number of experts and does not weigh their load."
    idle = sum(loads["idle_experts"])
    if idle:
        text += f" {idle} experts of all layers are chosen by no token."
    title = f"The busiest rank computes {placed.imbalance.mean():.2f} times the mean"
    return Section(title, (Figure(spread, caption), maps), text)
