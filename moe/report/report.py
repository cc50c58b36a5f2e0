"""The report of a placement: saving and dispatch mode, bytes, held-out tokens, and the experts that have to move."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moe.placement.cost.evaluation import Evaluation, TradeoffPoint
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.topology import Topology
from moe.report.context import Context, HeldOut
from moe.report.experts_section import affinity_section, sharing_section
from moe.report.layer_section import against_cap, layer_section, load_section
from moe.report.summary import DISPATCH_NAMES, byte_unit, share_saved, summarise
from moe.report.traffic_section import cost_bars, moving_section, volume_section
from netsim.foundation.chart import Panel, chart
from netsim.foundation.marks import BLUE, GREY, INK, RED, SOFT, Dots, Line, Mark, Words
from netsim.foundation.page import Block, Facts, Figure, Note, Section, Table, page

_APART = 0.08
"""Least distance of named points, as a share of the curve's width and height."""


def tradeoff_section(
    points: Sequence[TradeoffPoint], chosen: TradeoffPoint, compared: Mapping[str, TradeoffPoint], unit: str
) -> Section:
    """The curve of placements under several caps (maybe none) beside the chosen and other ones, in words too."""
    curve = tradeoff_curve(points, chosen, compared, unit)
    caption = (
        "To the left ranks are more even, further down less travels. Loads are those of the worst layer, and loads and "
        "costs those of the tokens that the placement was made from."
    )
    if points:
        caption = f"Each dot on the line is the placement found under one cap on the busiest rank. {caption}"
    title = "The price of balance" if points else "Traffic and balance"
    return Section(title, (Figure(curve, caption),), price_of_balance(points, chosen, compared, unit))


def price_of_balance(
    points: Sequence[TradeoffPoint], chosen: TradeoffPoint, compared: Mapping[str, TradeoffPoint], unit: str
) -> str:
    """Say what the chosen balance costs in traffic, and name the other placements."""
    cheapest = min((*points, chosen), key=lambda point: point.cost)
    extra = chosen.cost / cheapest.cost - 1 if cheapest.cost else 0.0
    if extra >= 0.0005:
        text = (
            f"Holding the busiest rank at {chosen.busiest:.2f} instead of {cheapest.busiest:.2f} times the mean costs "
            f"{extra:.1%} more traffic ({chosen.cost:.3g} instead of {cheapest.cost:.3g} {unit} a token)."
        )
    else:
        text = (
            f"The placement costs {chosen.cost:.3g} {unit} a token with the busiest rank at {chosen.busiest:.2f} times "
            f"the mean{'; no cap that was tried costs less' if points else ''}."
        )
    others = [f"{name} {point.cost:.3g} {unit} at {point.busiest:.2f}" for name, point in compared.items()]
    return f"{text} For comparison: {', '.join(others)}." if others else text


def tradeoff_curve(
    points: Sequence[TradeoffPoint], chosen: TradeoffPoint, compared: Mapping[str, TradeoffPoint], unit: str
) -> str:
    """Draw cost against the load of the busiest rank, the chosen placement marked."""
    curve = sorted(points, key=lambda point: point.busiest)
    loads, costs = [point.busiest for point in curve], [point.cost for point in curve]
    marks: list[Mark] = [Line(loads, costs, BLUE, marker="o")]
    every = (chosen, *compared.values(), *points)
    spans = [max(np.ptp(values), 1e-12) for values in zip(*((one.busiest, one.cost) for one in every), strict=True)]
    taken = [chosen, *compared.values()]
    for point in curve:
        away = [abs(point.busiest - one.busiest) / spans[0] + abs(point.cost - one.cost) / spans[1] for one in taken]
        if min(away) > _APART:
            taken.append(point)
            marks.append(Words(point.busiest, point.cost, _cap(point), SOFT, (6, 9)))
    for name, point, colour in (("placed", chosen, RED), *((name, point, GREY) for name, point in compared.items())):
        marks.append(Dots([point.busiest], [point.cost], colour, size=70, edge=INK))
        marks.append(Words(point.busiest, point.cost, name, offset=(8, -9), bold=True))
    panel = Panel(
        marks,
        x="busiest rank of the worst layer / mean load of a rank",
        y=f"cost per token [{unit}]",
        grid="both",
    )
    return chart([panel], size=(11.0, 4.2), name="tradeoff")


def _cap(point: TradeoffPoint) -> str:
    return "no cap" if point.max_load is None else f"cap {point.max_load:.4g}"


def held_out_section(before: Evaluation, placed: Evaluation, held_out: HeldOut, unit: str, name: str) -> Section:
    """A table of the solver's tokens and of held-out ones; the title gives the share of the saving that remains."""
    pairs = ((before, placed), (held_out.before, held_out.placed))
    seen, unseen = (share_saved(*pair) for pair in pairs)
    every = [traffic for pair in pairs for traffic in pair]
    rows = [
        ("tokens", *(f"{traffic.num_tokens:,}" for traffic in every)),
        (f"cost per token [{unit}]", *(f"{traffic.cost:.4g}" for traffic in every)),
        ("moves of a token to other ranks", *(f"{traffic.crossings:.4g}" for traffic in every)),
        ("busiest rank, mean over the layers", *(f"{traffic.imbalance.mean():.3f}" for traffic in every)),
        ("busiest rank, worst layer", *(f"{traffic.imbalance.max():.3f}" for traffic in every)),
    ]
    columns = ["", f"solved on: {name}", "placed", f"held out: {name}", "placed"]
    text = (
        f"The placement was made from other tokens than those of {held_out.source}, which show what to expect: it "
        f"saves {unseen:.1%} there, {seen:.1%} on its own trace."
    )
    table = Table(columns, rows, best=[(1, 4), (3, 4)])
    change = f"{unseen:.0%} is saved" if unseen > -0.005 else f"the cost rises by {-unseen:.0%}"
    return Section(f"On tokens that the solver did not see, {change}", (table,), text)


def placement_report(
    placement: Placement,
    statistics: RoutingStatistics,
    topology: Topology,
    before: Evaluation,
    placed: Evaluation,
    context: Context | None = None,
) -> str:
    """Compose the report: a self-contained HTML document. Without a context the placement in use is contiguous."""
    context = context or Context()
    mode = DISPATCH_NAMES[placement.dispatch]
    shape = f"{placement.num_nodes} x {placement.ranks_per_node} ranks"
    sections = placement_sections(placement, statistics, topology, before, placed, context)
    footer = (
        f"Solver {placement.solver.name}, seed {placement.solver.seed}. Made from the trace with sha256 "
        f"{placement.trace_sha256 or 'unknown'}; later tokens may be routed differently, which --held-out measures."
    )
    text = finding(placement, topology, before, placed, context)
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
    """Compose the sections of the report, for a page of their own or as part of another."""
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
        steps = numbers["moving"]["steps_to_pay_back"]
        sections.append(moving_section(placement.num_layers, context.moving, byte_unit(numbers), steps))
    return sections


def finding(
    placement: Placement, topology: Topology, before: Evaluation, placed: Evaluation, context: Context | None = None
) -> str:
    """Returns a sentence on what the placement achieves, on held-out tokens if there are some, and one on slots."""
    context = context or Context()
    where = f"{DISPATCH_NAMES[placement.dispatch]} on {placement.num_nodes} x {placement.ranks_per_node} ranks"
    slots = ""
    if context.slots not in (None, placement.slots_per_rank):
        slots = (
            f" The placement in use takes {context.slots} slots a rank and this one {placement.slots_per_rank}: they "
            "differ in memory too."
        )
    elif placement.has_replicas:
        slots = f" {placement.slots_per_rank} slots a rank hold replicas of some experts."
    if not before.cost:
        return f"There is nothing to place: {where} moves no token between ranks."
    if context.kept:
        return (
            f"Keep the placement in use: the search found nothing cheaper for {where} that loads the busiest rank no "
            f"more. A token costs {before.cost:.3g} {topology.unit}, and no expert moves.{slots}"
        )
    if placement.solver.name == "packing":
        return (
            f"Packing by load brings the busiest rank from {before.imbalance.max():.2f} to "
            f"{placed.imbalance.max():.2f} times the mean; the traffic of {where} goes from {before.cost:.3g} to "
            f"{placed.cost:.3g} {topology.unit} a token.{slots}"
        )
    seen = share_saved(before, placed)
    if not seen and context.held_out is None:
        return f"Experts stay contiguous: the search found nothing cheaper for {where}."
    which, beside = "the tokens that it was made from", ""
    if context.held_out is not None:
        before, placed = context.held_out.before, context.held_out.placed
        which = "tokens that the solver did not see"
        beside = f" ({'saves' if seen >= 0 else 'costs'} {abs(seen):.0%} on its own)"
    saved = share_saved(before, placed)
    cap = None if placement.load is None else placement.load.max_load
    return (
        f"Placing {placement.num_experts} experts a layer {'cuts' if saved >= 0 else 'raises'} the traffic of {where} "
        f"by {abs(saved):.0%} on {which}{beside}, from {before.cost:.3g} to {placed.cost:.3g} {topology.unit} a token; "
        f"in the worst layer the busiest rank computes {placed.imbalance.max():.2f} times the mean"
        f"{'' if cap is None else f' ({against_cap(placed.imbalance.max(), cap)})'}, {before.imbalance.max():.2f} "
        f"before.{slots}"
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
    seen = f"{share_saved(before, placed):.1%}"
    shown, worst = (before, placed), f"{name} {before.imbalance.max():.2f}"
    against = f"against {name}, on the tokens that it was made from"
    if context.held_out is not None:
        shown, worst = (context.held_out.before, context.held_out.placed), f"on its own {placed.imbalance.max():.2f}"
        against = f"against {name}, on tokens that the solver did not see; on its own {seen}"
    cap = None if placement.load is None else placement.load.max_load
    worst += "" if cap is None else f"; cap {cap:.4g}"
    facts = Facts(
        (
            ("Traffic saved", f"{share_saved(*shown):.1%}", against),
            *(_crossing(*shown, place, name, copies=numbers["sends_copies"]) for place in places),
            ("Busiest rank, worst layer", f"{shown[1].imbalance.max():.2f}", f"times the mean; {worst}"),
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
        caption = "Cost per token over all layers, on the tokens that the placement was made from. "
        caption += "The lower bound holds for every placement; it may not be reachable." if known else ""
        blocks.append(Figure(cost_bars(costs, topology.unit), caption))
    saved = share_saved(*shown)
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
