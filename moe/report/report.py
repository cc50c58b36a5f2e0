"""The report of a placement: what it saves, in which dispatch mode, and what it does to the load."""

import numpy as np

from moe.placement.evaluation import Evaluation
from moe.placement.placement import Placement
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology
from moe.report.figures import BlockMap, block_maps, cost_bars, cost_by_layer, load_maps
from moe.report.page import Block, Facts, Figure, Note, Section, Table, page

DISPATCH_NAMES = {"coherent": "context-coherent dispatch", "home": "home-return dispatch"}
DISPATCH_LAWS = {
    "coherent": "These numbers hold for context-coherent dispatch, where a token stays on the rank of its expert. "
    "Inter-layer affinity saves traffic only there: where tokens return home after every layer, this placement "
    "changes nothing.",
    "home": "These numbers hold for home-return dispatch, where a token goes from its own rank to its experts and back "
    "in every layer. A placement saves traffic there only as far as the ranks hold different kinds of tokens.",
}


def saving(placement: Placement) -> float:
    """Share of the contiguous cost that a placement saves, 0 to 1.

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
    contiguous: Evaluation,
    placed: Evaluation,
) -> str:
    """Compose the report page.

    Args:
        placement: The placement with its objective.
        statistics: Counts of the trace on which both are measured.
        topology: Ranks and costs.
        contiguous: Traffic under the contiguous placement.
        placed: Traffic under this placement.

    Returns:
        A self-contained HTML document.
    """
    mode = DISPATCH_NAMES[placement.dispatch]
    shape = f"{placement.num_nodes} x {placement.ranks_per_node} ranks"
    sections = placement_sections(placement, statistics, topology, contiguous, placed)
    footer = (
        f"Solver {placement.solver.name}, seed {placement.solver.seed}. Measured on the trace that the placement was "
        f"made from (sha256 {placement.trace_sha256 or 'unknown'}); tokens of another time may route differently."
    )
    finding = _finding(placement, topology, f"{mode} on {shape}")
    return page(f"Expert placement on {shape}", finding, sections, kicker=f"Dispatch mode: {mode}", footer=footer)


def placement_sections(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    contiguous: Evaluation,
    placed: Evaluation,
) -> list[Section]:
    """Compose the sections of the report, for a page of their own or as part of another.

    Args:
        placement: The placement with its objective.
        statistics: Counts of the trace on which both are measured.
        topology: Ranks and costs.
        contiguous: Traffic under the contiguous placement.
        placed: Traffic under this placement.

    Returns:
        What it saves, where the traffic goes, what the ranks compute.
    """
    return [
        _cost_section(placement, statistics, topology, contiguous, placed),
        *_traffic_sections(placement, statistics, topology, contiguous, placed),
        _load_section(contiguous, placed),
    ]


def _finding(placement: Placement, topology: Topology, where: str) -> str:
    objective = placement.objective
    assert objective is not None
    if not objective.contiguous_cost:
        return f"There is nothing to place: {where} moves no token between ranks."
    if not saving(placement):
        return f"Experts stay contiguous: the search found nothing cheaper for {where}."
    return (
        f"Placing {placement.num_experts} experts a layer cuts the traffic of {where} by {saving(placement):.0%}, from "
        f"{objective.contiguous_cost:.3g} to {objective.cost:.3g} {topology.unit} a token."
    )


def _cost_section(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    contiguous: Evaluation,
    placed: Evaluation,
) -> Section:
    objective = placement.objective
    assert objective is not None
    facts = Facts(
        (
            ("Traffic saved", f"{saving(placement):.1%}", "against contiguous"),
            ("To another rank", f"{placed.cross_rank:.1%}", f"of the moves; contiguous {contiguous.cross_rank:.1%}"),
            ("To another node", f"{placed.cross_node:.1%}", f"of the moves; contiguous {contiguous.cross_node:.1%}"),
            ("Certified gap", f"{objective.gap:.1%}", "better search saves at most this"),
            ("Tokens", f"{statistics.num_tokens:,}", f"{statistics.skipped:,} moves skip a dropped layer"),
        )
    )
    blocks: list[Block] = [facts, Note(_law(placement, statistics))]
    if objective.contiguous_cost:
        bars = cost_bars(objective.contiguous_cost, objective.cost, objective.lower_bound, topology.unit)
        caption = "Cost per token over all layers. The lower bound holds for every placement; it may not be reachable."
        blocks.append(Figure(bars, caption, half=True))
        first = 1 if placement.dispatch == "coherent" else 0
        costs = contiguous.cost_by_layer[first:], placed.cost_by_layer[first:]
        layers = cost_by_layer(*costs, topology.unit, first_layer=first)
        blocks.append(Figure(layers, "The same cost by the layer in which it arises.", half=True))
    return Section("What it saves", blocks)


def _law(placement: Placement, statistics: RoutingStatistics) -> str:
    law = DISPATCH_LAWS[placement.dispatch]
    if placement.dispatch == "coherent" and (statistics.loads.sum(axis=1) > statistics.num_tokens).any():
        law += " The router picks several experts; only moves between first choices are counted, not the copies."
    return law


def _traffic_sections(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    contiguous: Evaluation,
    placed: Evaluation,
) -> list[Section]:
    sections = []
    if placement.dispatch == "home" and statistics.source_counts is not None:
        sections.append(_source_section(statistics.source_counts, contiguous, placed))
    if statistics.num_layers > 1:
        sections.append(_affinity_section(placement, statistics, topology, contiguous, placed))
    return sections


def _affinity_section(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    contiguous: Evaluation,
    placed: Evaluation,
) -> Section:
    gaps = range(statistics.num_layers - 1)
    before, after = (
        [
            BlockMap(statistics.transitions[gap], traffic.expert_ranks[gap], traffic.expert_ranks[gap + 1])
            for gap in gaps
        ]
        for traffic in (contiguous, placed)
    )
    titles = [f"layer {gap} to {gap + 1}" for gap in gaps]
    picture = Figure(
        block_maps(titles, before, after, "expert of the layer", "expert of the next layer"),
        "Each row: where the tokens of one expert go in the next layer. Experts are sorted by the rank that holds "
        "them; orange frames are moves that stay on a rank.",
    )
    slots = placement.slots_per_rank
    information, mass = statistics.normalised_mutual_information(), statistics.top_mass(slots)
    rows = [
        (
            titles[gap],
            f"{information[gap]:.3f}",
            f"{mass[gap]:.1%}",
            f"{before[gap].staying:.1%}",
            f"{after[gap].staying:.1%}",
        )
        for gap in gaps
    ]
    table = Table(
        ("gap", "mutual information / log E", f"mass of the top {slots}", "stays, contiguous", "stays, placed"),
        rows,
        f"Mutual information: 0 no affinity, 1 fully determined. Chance to stay is {1 / topology.num_ranks:.1%}; the "
        f"top {slots} successors of each expert are what one rank could keep if experts did not compete for it.",
    )
    stays_before, stays_after = 1 - contiguous.cross_rank, 1 - placed.cross_rank
    title = "Affinity between consecutive layers"
    if placement.dispatch == "home":
        text = "For information: affinity does not change home-return traffic; context-coherent dispatch could use it."
    else:
        text = f"{stays_after:.0%} of the moves stay on their rank; with contiguous placement {stays_before:.0%} do."
        title = "Experts that follow each other share a rank" if stays_after > stays_before else title
    return Section(title, (picture, table), text)


def _source_section(sources: np.ndarray, contiguous: Evaluation, placed: Evaluation) -> Section:
    ranks = np.arange(sources.shape[1])
    before, after = (
        [
            BlockMap(tokens.T, expert_ranks, ranks)
            for tokens, expert_ranks in zip(sources, traffic.expert_ranks, strict=True)
        ]
        for traffic in (contiguous, placed)
    )
    titles = [f"layer {layer}" for layer in range(len(sources))]
    maps = Figure(
        block_maps(titles, before, after, "expert", "rank of the token"),
        "Each row: from which ranks the tokens of one expert come. Experts are sorted by the rank that holds them; "
        "orange frames are tokens that stay on their rank.",
    )
    return Section("Where the tokens of each expert come from", (maps,))


def _load_section(contiguous: Evaluation, placed: Evaluation) -> Section:
    maps = Figure(
        load_maps(contiguous.rank_loads, placed.rank_loads),
        "Choices that each rank computes, relative to the mean of the layer: 1.00 is perfect balance. The busiest rank "
        "sets the pace of a layer.",
    )
    text = (
        f"The busiest rank computes {placed.imbalance.mean():.2f} times the mean on average over the layers "
        f"(contiguous {contiguous.imbalance.mean():.2f}). The solver gives each rank the same number of experts and "
        "does not weigh their load."
    )
    return Section("Load of the ranks", (maps,), text)
