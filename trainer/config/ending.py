"""Steps that are written by the end of a run: `every: 1/6` of its steps, and -1 for the last one."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import PositiveInt, WithJsonSchema

_SHARE = r"^1/[1-9]\d*$"
Every = Annotated[
    PositiveInt,
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "pattern": _SHARE}]}),
]
"""Steps between two of something; `1/6`: a sixth of `optim.steps`."""


def counted_from_the_end(document: dict[str, Any]) -> dict[str, Any]:
    """A configuration in which steps that are written by the end of the run are numbers; other mistakes are left
    alone.
    """
    optim = document.get("optim")
    steps = optim.get("steps") if isinstance(optim, Mapping) else None
    if not isinstance(steps, int) or isinstance(steps, bool):
        return document
    counted = {**document}
    for name in ("evaluate", "sample"):
        section = document.get(name)
        if not isinstance(section, dict):
            continue
        every = section.get("every")
        if isinstance(every, str) and re.fullmatch(_SHARE, every):
            counted[name] = {**section, "every": max(1, steps // int(every.removeprefix("1/")))}
    trace = document.get("trace")
    if isinstance(trace, dict) and isinstance(recorded := trace.get("steps"), list | tuple):
        counted["trace"] = {**trace, "steps": [_from_the_end(step, steps) for step in recorded]}
    return counted


def _from_the_end(step: Any, steps: int) -> Any:
    """The number of a step; one before the first stays negative, and is none of the run."""
    negative = isinstance(step, int) and step < 0
    return steps + 1 + step if negative and steps + 1 + step > 0 else step
