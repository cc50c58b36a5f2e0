"""The trace verb: the collectives that a run would issue."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe import collective_trace
from trainer.config.constraints.plan import plan_layout
from trainer.config.file import load_config
from trainer.trace.formula import constant_gaps, formula, recorded_gaps
from trainer.trace.formula.plan import trace_spec


@dataclass(frozen=True, kw_only=True)
class TraceRequest:
    """The run whose collectives are written, and where to.

    Attributes:
        config: configuration file.
        overrides: ``dotted.key=value``.
        world_size: ranks of the run.
        ranks_per_node: ranks on one node.
        gap_ns: compute before each collective, ns; None: unknown.
        times: recorded trace whose mean gaps are used instead, or None.
        out: the trace to write.
    """

    config: Path
    overrides: Sequence[str]
    world_size: int
    ranks_per_node: int
    gap_ns: int | None
    times: Path | None
    out: Path


def run(request: TraceRequest) -> int:
    """Writes a collective trace by formula.

    Args:
        request: the run, and where to.

    Returns:
        0.

    Raises:
        ValueError: an input is wrong.
    """
    world_size, gap_ns, out = request.world_size, request.gap_ns, request.out
    for name, value in (("--world-size", world_size), ("--ranks-per-node", request.ranks_per_node)):
        if value < 1:
            raise ValueError(f"{name}: {value} is below 1; give the number of ranks")
    if gap_ns is not None and gap_ns < 0:
        raise ValueError(f"--gap-ns: {gap_ns} is negative; give nanoseconds of compute, 0 or more")
    config = load_config(request.config, request.overrides)
    layout = plan_layout(config, world_size, ranks_per_node=request.ranks_per_node)
    gaps = None if gap_ns is None else constant_gaps(gap_ns)
    if request.times is not None:
        gaps = recorded_gaps(collective_trace.read(request.times)[1])
    header, records = formula(trace_spec(config, layout, ranks_per_node=request.ranks_per_node), gaps)
    collective_trace.write(out, header, records)
    print(f"{out}: one step of {world_size} ranks, {out.stat().st_size / 1e6:.1f} MB")
    return 0
