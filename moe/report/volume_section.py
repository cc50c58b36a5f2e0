"""The section of the report about traffic in bytes and milliseconds, as far as trace and netsim allow."""

from collections.abc import Sequence
from typing import Any

from moe.placement.cost.evaluation import Evaluation
from moe.report.context import Context
from moe.report.page import Block, Figure, Note, Section, Table
from moe.report.rank_map import rank_maps
from moe.report.summary import LINKS, byte_unit
from moe.report.traffic_figures import LINK_NAMES, link_bars

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
    byte, size = byte_unit(numbers)
    scale, unit = (1.0, "moves") if kind == "moves_per_token" else (size, byte)
    unit += " per training step of one expert-parallel group" if kind == "bytes_per_step" else " per token, forward"
    volumes = {
        label: {link: traffic[kind][link] / scale for link in LINKS}
        for label, traffic in ((name, now), ("placed", then))
    }
    blocks: list[Block] = [Figure(link_bars(volumes, unit), _caption(kind))]
    if before.crossings or placed.crossings:
        maps = rank_maps({name: before, "placed": placed}, numbers["ranks_per_node"])
        blocks.append(Figure(maps, _MAP_CAPTION + (" Frames are nodes." if numbers["num_nodes"] > 1 else "")))
    links = LINKS if numbers["num_nodes"] > 1 else LINKS[:2]
    blocks.append(_table(now, then, name, links, kind, (byte, size)))
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


def _caption(kind: str) -> str:
    if kind == "bytes_per_step":
        return (
            "What the dispatch of tokens sends by class of link in one training step, forward and backward pass, all "
            "layers and ranks of one expert-parallel group."
        )
    return "What the dispatch of one token sends by class of link in the forward pass, over all layers."


def _table(
    before: dict[str, Any], placed: dict[str, Any], name: str, links: Sequence[str], kind: str, unit: tuple[str, float]
) -> Table:
    columns = ["class of link", f"moves of a token, {name}", "placed"]
    per = "step" if kind == "bytes_per_step" else "token"
    if kind != "moves_per_token":
        columns += [f"{unit[0]} per {per}, {name}", "placed"]
    rows = []
    for link in links:
        cells = [LINK_NAMES[link], *(f"{traffic['moves_per_token'][link]:.3f}" for traffic in (before, placed))]
        if kind != "moves_per_token":
            cells += [f"{traffic[kind][link] / unit[1]:,.3g}" for traffic in (before, placed)]
        rows.append(cells)
    both = " Bytes per step: forward and backward pass." if kind == "bytes_per_step" else ""
    return Table(columns, rows, f"Moves: forward pass.{both}")


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
    change = f"{placed / before - 1:+.0%}".replace("-0%", "0%").replace("+0%", "0%") if before else "0%"
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
