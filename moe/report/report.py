"""The report of a placement: what it saves, in which dispatch mode, and what it does to the load."""

import numpy as np

from moe.placement.evaluation import Evaluation
from moe.placement.placement import Placement
from moe.placement.statistics import RoutingStatistics
from moe.placement.topology import Topology
from moe.report.figures import BlockMap, block_maps, cost_bars, cost_by_layer, load_maps
from moe.report.page import Facts, Figure, Note, Section, Table, page

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
    objective = placement.objective
    assert objective is not None
    mode = DISPATCH_NAMES[placement.dispatch]
    share = saving(placement)
    shape = f"{placement.num_nodes} x {placement.ranks_per_node} ranks"
    verdict = (
        f"Placing {placement.num_experts} experts in each of {placement.num_layers} layers on {shape} cuts the traffic "
        f"of {mode} by {share:.0%}, from {objective.contiguous_cost:.3g} to {objective.cost:.3g} {topology.unit} "
        "a token."
        if share > 0
        else f"Contiguous placement is kept: on {shape} nothing cheaper was found for {mode}."
    )
    sections = [
        _cost_section(placement, statistics, topology, contiguous, placed),
        *_traffic_sections(placement, statistics, topology, contiguous, placed),
        _load_section(contiguous, placed),
    ]
    footer = (
        f"Solver {placement.solver.name}, seed {placement.solver.seed}. Measured on the trace that the placement was "
        f"made from (sha256 {placement.trace_sha256 or 'unknown'}); tokens of another time may route differently."
    )
    return page(f"Expert placement on {shape}", verdict, sections, kicker=f"Dispatch mode: {mode}", footer=footer)


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
    bars = Figure(
        cost_bars(objective.contiguous_cost, objective.cost, objective.lower_bound, topology.unit),
        "Cost per token over all layers. No balanced placement can go below the lower bound; it may not be reachable.",
        half=True,
    )
    layers = Figure(
        cost_by_layer(contiguous.cost_by_layer, placed.cost_by_layer, topology.unit),
        "The same cost by the layer in which it arises.",
        half=True,
    )
    return Section("What it saves", (facts, Note(_law(placement, statistics)), bars, layers))


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
    maps = Figure(
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
    useless = placement.dispatch == "home"
    text = (
        "For information: affinity does not change home-return traffic; context-coherent dispatch could use it."
        if useless
        else f"Over all gaps, {np.mean([m.staying for m in after]):.0%} of the tokens find their next expert on the "
        f"same rank; with contiguous placement it is {np.mean([m.staying for m in before]):.0%}."
    )
    title = "Affinity between consecutive layers" if useless else "Experts that follow each other share a rank"
    return Section(title, (maps, table), text)


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
    return Section("Experts sit where their tokens are", (maps,))


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
