"""The section of the report about traffic in bytes and milliseconds, as far as trace and netsim allow."""

from collections.abc import Sequence
from typing import Any

from moe.placement.cost.evaluation import Evaluation
from moe.report.context import Context
from moe.report.page import Block, Figure, Note, Section, Table
from moe.report.rank_map import rank_maps
from moe.report.summary import LINKS
from moe.report.traffic_figures import LINK_NAMES, link_bars

_UNITS = (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("B", 1.0))

_MAP_CAPTION = (
    "Who sends to whom: moves of a token from rank to rank in the forward pass, over all layers, darker for more. What "
    "stays on its rank is left grey."
)


def volume_section(numbers: dict[str, Any], before: Evaluation, placed: Evaluation, context: Context) -> Section:
    """Compose the section.

    Args:
        numbers: What `moe.report.summary.summarise` returned.
        before: Traffic under the placement in use.
        placed: Traffic under the new placement.
        context: Information besides the placement.

    Returns:
        Bytes by class of link and moves between ranks, then predicted and simulated times where they are known.
    """
    name = context.before
    now, then = numbers["traffic"]["before"], numbers["traffic"]["placed"]
    kind = next(k for k in ("bytes_per_step", "bytes_per_token", "moves_per_token") if now[k] is not None)
    scale, unit = _scale(max(*now[kind].values(), *then[kind].values()), kind)
    volumes = {
        label: {link: traffic[kind][link] / scale for link in LINKS}
        for label, traffic in ((name, now), ("placed", then))
    }
    blocks: list[Block] = [Figure(link_bars(volumes, unit), _caption(kind))]
    if before.crossings or placed.crossings:
        maps = rank_maps({name: before, "placed": placed}, numbers["ranks_per_node"])
        blocks.append(Figure(maps, _MAP_CAPTION + (" Frames are nodes." if numbers["num_nodes"] > 1 else "")))
    links = LINKS if numbers["num_nodes"] > 1 else LINKS[:2]
    blocks.append(_table(now, then, name, links))
    missing = _missing(numbers, context)
    if missing:
        blocks.append(Note(missing))
    if now["predicted_ms_per_step"] is not None:
        blocks.append(_predicted(now["predicted_ms_per_step"], then["predicted_ms_per_step"], name))
    if context.simulations:
        blocks.append(_simulated(context))
    return Section(_title(now[kind], then[kind], numbers["num_nodes"]), blocks)


def _title(before: dict[str, float], placed: dict[str, float], num_nodes: int) -> str:
    link, where = ("other_node", "between nodes") if num_nodes > 1 else ("same_node", "between ranks")
    if not before[link]:
        return f"Nothing travels {where}"
    change = placed[link] / before[link] - 1
    if abs(change) < 0.005:
        return f"As much travels {where} as before"
    return f"{abs(change):.0%} {'less' if change < 0 else 'more'} travels {where}"


def _scale(largest: float, kind: str) -> tuple[float, str]:
    if kind == "moves_per_token":
        return 1.0, "moves per token in the forward pass"
    per = "training step of one expert-parallel group" if kind == "bytes_per_step" else "token in the forward pass"
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if largest >= scale), _UNITS[-1])
    return scale, f"{unit} per {per}"


def _caption(kind: str) -> str:
    if kind == "bytes_per_step":
        return (
            "What the dispatch of tokens sends by class of link in one training step, forward and backward pass, all "
            "layers and ranks of one expert-parallel group."
        )
    return "What the dispatch of one token sends by class of link in the forward pass, over all layers."


def _table(before: dict[str, Any], placed: dict[str, Any], name: str, links: Sequence[str]) -> Table:
    rows = []
    for link in links:
        cells = [LINK_NAMES[link]]
        for kind in ("moves_per_token", "bytes_per_token", "bytes_per_step"):
            for traffic in (before, placed):
                if traffic[kind] is not None:
                    value = traffic[kind][link]
                    cells.append(f"{value:.3f}" if kind == "moves_per_token" else _bytes(value))
        rows.append(cells)
    columns = ["class of link"]
    for kind, label in (("moves_per_token", "moves"), ("bytes_per_token", "per token"), ("bytes_per_step", "per step")):
        if before[kind] is not None:
            columns += [f"{label}, {name}", f"{label}, placed"]
    return Table(columns, rows, "Moves and bytes per token: forward pass. Bytes per step: forward and backward pass.")


def _bytes(value: float) -> str:
    unit, scale = next(((unit, scale) for unit, scale in _UNITS if value >= scale), _UNITS[-1])
    return f"{value / scale:,.3g} {unit}" if value < 1e12 else f"{value / 1e12:,.3g} TB"


def _missing(numbers: dict[str, Any], context: Context) -> str:
    if context.volume.token_bytes is None:
        return "The trace's header does not say how wide a token is (hidden, element_bytes), so that bytes are unknown."
    if context.volume.tokens_per_step is None:
        return "The trace does not say which step a token belongs to, so that bytes per step are unknown."
    if numbers["traffic"]["before"]["predicted_ms_per_step"] is None and not context.simulations:
        return (
            "No times: give --cost intra=900Gbps,inter=100Gbps,latency=5us for a prediction, or --results for what "
            "netsim found."
        )
    return ""


def _predicted(before: float, placed: float, name: str) -> Table:
    change = f"{placed / before - 1:+.0%}" if before else "0%"
    return Table(
        ("predicted by alpha-beta, not measured", name, "placed", "change"),
        [("dispatch of tokens per training step", f"{before:,.3f} ms", f"{placed:,.3f} ms", change)],
        "Latency per message and bytes over the given rates; the busiest link of any rank sets the pace, nothing "
        "contends inside the network, and no compute overlaps. A simulation (netsim) says more.",
    )


def _simulated(context: Context) -> Table:
    rows = [
        (
            f"{run.source}: {run.transport}",
            f"{run.completion_ms:,.3f} ms",
            f"{run.bound_ms:,.3f} ms",
            f"{run.completion_ms / run.bound_ms - 1:+.1%}" if run.bound_ms else "-",
            str(run.seeds),
        )
        for run in context.simulations
    ]
    return Table(
        ("simulated by netsim", "completion", "bound", "above bound", "seeds"),
        rows,
        "Mean completion of the whole scenario in each results file; which placement it was made for is in its trace.",
    )
