"""The trace verb: the collectives that a run would issue."""

from collections.abc import Sequence
from pathlib import Path

from moe import collective_trace
from trainer.config.constraints.plan import plan_layout
from trainer.config.file import load_config
from trainer.trace.formula import constant_gaps, formula, recorded_gaps
from trainer.trace.formula.plan import trace_spec


def run(
    path: Path,
    overrides: Sequence[str],
    world_size: int,
    ranks_per_node: int,
    gap_ns: int | None,
    times: Path | None,
    out: Path,
) -> int:
    """Writes a collective trace by formula.

    Args:
        path: configuration file.
        overrides: ``dotted.key=value``.
        world_size: ranks of the run.
        ranks_per_node: ranks on one node.
        gap_ns: compute before each collective, ns; None: unknown.
        times: recorded trace whose mean gaps are used instead, or None.
        out: the trace to write.

    Returns:
        0.

    Raises:
        ValueError: an input is wrong.
    """
    for name, value, least in (("--world-size", world_size, 1), ("--ranks-per-node", ranks_per_node, 1)):
        if value < least:
            raise ValueError(f"{name}: {value} is below {least}; give the number of ranks")
    if gap_ns is not None and gap_ns < 0:
        raise ValueError(f"--gap-ns: {gap_ns} is negative; give nanoseconds of compute, 0 or more")
    config = load_config(path, overrides)
    layout = plan_layout(config, world_size)
    gaps = None if gap_ns is None else constant_gaps(gap_ns)
    if times is not None:
        gaps = recorded_gaps(collective_trace.read(times)[1])
    header, records = formula(trace_spec(config, layout, ranks_per_node=ranks_per_node), gaps)
    collective_trace.write(out, header, records)
    print(f"{out}: one step of {world_size} ranks, {out.stat().st_size / 1e6:.1f} MB")
    return 0
