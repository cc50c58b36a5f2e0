"""Properties of a task that a run needs before the task is built."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from netsim.foundation.run_reference import RunReference
from netsim.foundation.settings import Section

Base = Annotated[RunReference | None, Field(exclude_if=lambda base: base is None)]
"""None is not written: runs from before there were any keep their identity."""


@dataclass(frozen=True)
class Calls:
    """Calls of a network that a task makes for every micro batch, one after the other, and perhaps backwards.

    Attributes:
        phase: ``rollout``: by `Task.collect`, once a cycle and in evaluation mode; ``learn``: by one `Task.loss`.
        rows: number of states in one call, for each example of the micro batch.
        reference: whether the network is the frozen one that the task names, and not the run's own.
    """

    phase: Literal["rollout", "learn"]
    count: int = 1
    rows: int = 1
    gradient: bool = False
    reference: bool = False


class TaskSettings(Section):
    """Settings of a task. A class of its own for each task says what differs from the defaults here."""

    trains_flow: ClassVar[bool] = False
    """Whether every network of flows learns it, unless the network lists its tasks."""
    weighs: ClassVar[bool] = False
    """Whether what a loss is computed from has weights, whose mean over all ranks is 1."""
    replays: ClassVar[bool] = False
    """Whether the routers of a loss choose what those of its rollouts chose."""

    @property
    def passes(self) -> int:
        """Number of losses that a micro batch is cut into, each with its own backward pass."""
        return 1

    @property
    def cycle(self) -> int:
        """Number of optimiser steps that share the collected data."""
        return 1

    @property
    def calls(self) -> tuple[Calls, ...]:
        """Calls in order for the formula of collectives; guidance takes twice the rows. A flow has its objective's."""
        return (Calls("learn", gradient=True),)
