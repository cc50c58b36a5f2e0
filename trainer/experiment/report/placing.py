"""The part about a placement: what it saves the run, in which dispatch mode, at what load."""

from pathlib import Path

from moe.placement.cost.evaluation import evaluate, evaluate_placement
from moe.placement.counts import RoutingStatistics
from moe.placement.placement import Placement
from moe.placement.ranks import contiguous_ranks
from moe.placement.topology import Topology
from moe.price.price import Price
from moe.report.experts_section import sharing_section
from moe.report.layer_section import load_section
from moe.report.page import Note, Section
from moe.report.summary import DISPATCH_NAMES
from moe.routing_trace import RoutingTrace
from netsim.foundation.digests import file_digest
from netsim.foundation.refusal import Refusal
from trainer.experiment.report.continuing import Continuations
from trainer.experiment.report.money import Money
from trainer.experiment.report.part import Part
from trainer.experiment.report.run_files import RunFiles, shown


def placement_part(
    run: RunFiles, path: Path, routing: Path | None, folder: Path | None, continued: Continuations | None
) -> Part:
    """Effect of the placement on the traffic and the load of the run, or of a routing trace.

    `folder` holds the results of ``moe price``; `continued`: both continuations as recorded.
    """
    source = routing or run.routing
    placement, trace = Placement.read(path), RoutingTrace.read(source)
    _check(run, path, placement, source, trace)
    priced = None if folder is None else _price(run, continued, folder, path)
    topology = Topology.hops(placement.num_nodes, placement.ranks_per_node)
    statistics = RoutingStatistics.collect(trace, topology.num_ranks)
    baseline = contiguous_ranks(statistics.num_layers, statistics.num_experts, topology.num_ranks)
    before = evaluate(statistics, topology, baseline, placement.dispatch)
    placed = evaluate_placement(statistics, topology, placement)
    used = trace.header.dispatch
    if used is not None and used != placement.dispatch:
        return _unused(placement, used)
    load = f"{placed.imbalance.max():.2f}"
    cap = None if placement.load is None else placement.load.max_load
    remark = f"times the mean; contiguous {before.imbalance.max():.2f}"
    facts = [("Busiest rank, worst layer", load, remark if cap is None else f"{remark}; cap {cap:.4g}")]
    money = Money(placement, before, placed, priced, continued)
    sections = [money.section()]
    shared = sharing_section(statistics, placement.dispatch, before, placed, "contiguous", placement.has_replicas)
    sections += [] if shared is None else [shared]
    idle = int((statistics.loads == 0).sum())
    sections.append(load_section(before, placed, "contiguous", idle=idle, cap=cap))
    mode = DISPATCH_NAMES[placement.dispatch]
    return Part(
        [
            (f"placement, {mode}", money.saving()),
            ("busiest rank, worst layer", f"{before.imbalance.max():.2f} -> {load} x mean"),
        ],
        [money.headline(), *facts],
        sections,
        f"{money.saving()}, while the busiest rank computes {load} times the mean in the worst layer",
    )


def _check(run: RunFiles, path: Path, placement: Placement, source: Path, trace: RoutingTrace) -> None:
    if placement.objective is None:
        raise Refusal(path, "objective", "is null", "make the file with `python -m moe place`")
    for field in ("num_layers", "num_experts"):
        value, wanted = getattr(placement, field), getattr(trace.header, field)
        if value != wanted:
            raise Refusal(
                path, field, f"is {value} but the routing trace has {wanted}", "give the trace that was placed"
            )
    run.check_routing(source, trace)
    digest = file_digest(source)
    if placement.trace_sha256 not in (None, digest):
        problem = f"is not that of {source} ({shown(placement.trace_sha256)})"
        raise Refusal(path, "trace_sha256", problem, "place the routing of this run, or give --routing FILE")


def _price(run: RunFiles, continued: Continuations | None, folder: Path, placement: Path) -> Price:
    path = folder / "price.json"
    price = Price.read(path)
    traces = [run.trace, *([] if continued is None else [continued.plain.trace])]
    for field, sources in (("trace_sha256", traces), ("placement_sha256", [placement])):
        if getattr(price, field) not in [file_digest(source) for source in sources if source.exists()]:
            problem = f"is not that of {' or '.join(map(str, sources))} ({shown(getattr(price, field))})"
            raise Refusal(path, field, problem, "price this run under this placement with `python -m moe price`")
    return price


def _unused(placement: Placement, used: str) -> Part:
    text = (
        f"The placement is made for {DISPATCH_NAMES[placement.dispatch]}, and the run used "
        f"{DISPATCH_NAMES.get(used, used)}: what the search saved there is not saved here. "
        + ("No placement changes what it sends." if used == "capped" else f"Place again with `--objective {used}`.")
    )
    return Part(
        [("placement", f"for {placement.dispatch} dispatch, which the run does not use")],
        [],
        [Section("A placement that this run cannot use", [Note(text)])],
    )
