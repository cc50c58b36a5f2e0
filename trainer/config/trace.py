"""Which steps of a run are recorded."""

from pydantic import PositiveInt

from moe.validation.section import Section


class TraceConfig(Section):
    """Collectives and routing of some steps, written to traces/."""

    steps: tuple[PositiveInt, ...] = ()
    """Optimiser steps to record. The first two are not representative; give at least two in a row."""
    ranks_per_node: PositiveInt | None = None
    """Ranks on one node; null: the local world size."""
