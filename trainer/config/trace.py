"""Which steps of a run are recorded."""

from typing import Annotated

from pydantic import AfterValidator, PositiveInt, WithJsonSchema

from netsim.foundation.settings import Section


def _not_zero(step: int) -> int:
    if step == 0:
        raise ValueError("is 0, and steps are counted from 1; use 1 or more, or -1 for the last")
    return step


_Step = Annotated[int, AfterValidator(_not_zero), WithJsonSchema({"type": "integer", "not": {"const": 0}})]


class TraceConfig(Section):
    """Collectives and routing of some steps, written to traces/."""

    steps: tuple[_Step, ...] = ()
    """Optimiser steps to record; -1 is the last of the run. The first two are not representative; give at least two in
    a row."""
    ranks_per_node: PositiveInt | None = None
    """Ranks on one node; null: the local world size."""
