"""The report of a placement: saving and dispatch mode, volume in bytes, and the experts that have to move."""

from typing import Any

from moe.placement.cost.evaluation import Evaluation
from moe.placement.cost.tradeoff_point import TradeoffPoint
from moe.placement.counts.statistics import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.topology import Topology
from moe.report.affinity_section import affinity_section
from moe.report.context import Context
from moe.report.held_out_section import held_out_section
from moe.report.layer_section import layer_section
from moe.report.load_section import load_section
from moe.report.moving_section import moving_section
from moe.report.page import Block, Facts, Figure, Note, Section, page
from moe.report.sharing_section import sharing_section
from moe.report.summary import DISPATCH_NAMES, share_saved, summarise
from moe.report.tradeoff_section import tradeoff_section
from moe.report.traffic_figures import cost_bars
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
    return page(
        f"Expert placement on {shape}", text, sections, kicker=f"Dispatch mode: {mode}", footer=footer, verb="place"
    )


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
    name = context.before
    cap = None if placement.load is None else placement.load.max_load
    numbers = summarise(placement, statistics, topology, before, placed, context)
    sections = [_cost_section(placement, statistics, topology, before, placed, context, numbers)]
    if before.cost and (context.tradeoff or context.compared):
        chosen = TradeoffPoint.of(cap, placed)
        sections.append(tradeoff_section(context.tradeoff, chosen, context.compared, topology.unit))
    if context.held_out is not None:
        sections.append(held_out_section(before, placed, context.held_out, topology.unit, name))
    sections.append(volume_section(numbers, before, placed, context))
    first = 1 if placement.dispatch == "coherent" and not before.cost_by_layer[0] else 0
    if statistics.num_layers > 1 and before.cost:
        sections.append(layer_section(before, placed, topology.unit, name, first))
    shared = sharing_section(statistics, placement.dispatch, before, placed, name, placement.has_replicas)
    sections += [] if shared is None else [shared]
    if statistics.num_layers > 1:
        sections.append(affinity_section(placement, statistics, before, placed, name, numbers))
    idle = sum(numbers["load_over_mean"]["idle_experts"])
    sections.append(load_section(before, placed, name, idle=idle, cap=cap))
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
        f"{before.cost:.3g} to {placed.cost:.3g} {topology.unit} a token; the busiest rank computes "
        f"{placed.imbalance.mean():.2f} times the mean, {before.imbalance.mean():.2f} before.{replicas}"
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
    places = ("rank", "node") if placement.num_nodes > 1 else ("rank",)
    facts = Facts(
        (
            ("Traffic saved", f"{share_saved(before, placed):.1%}", f"against {name}"),
            *(_crossing(before, placed, place, name, copies=numbers["sends_copies"]) for place in places),
            (
                "Busiest rank",
                f"{placed.imbalance.mean():.2f}",
                f"times the mean; worst layer {placed.imbalance.max():.2f}; {name} {before.imbalance.mean():.2f} and "
                f"{before.imbalance.max():.2f}",
            ),
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
        blocks.append(Figure(cost_bars(costs, topology.unit), caption))
    saved = share_saved(before, placed)
    title = f"{saved:.0%} of the cost is saved" if saved >= 0.005 else "What it costs"
    return Section(title, blocks)


def _crossing(before: Evaluation, placed: Evaluation, place: str, name: str, *, copies: bool) -> tuple[str, str, str]:
    title = f"To another {place}"
    if copies:
        first = 1 if place == "rank" else 2
        now, then = (traffic.moves_by_link[:, first:].sum() for traffic in (before, placed))
        return title, f"{then:.2f}", f"moves of a token, there and back; {name} {now:.2f}"
    now, then = (traffic.cross_rank if place == "rank" else traffic.cross_node for traffic in (before, placed))
    return title, f"{then:.1%}", f"of the moves; {name} {now:.1%}"
