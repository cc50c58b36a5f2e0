"""What all ranks do, and none of them alone: it ends well on all, or fails on all."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

Result = TypeVar("Result")


class RankError(RuntimeError):
    """Something failed on one rank or on several, which the message names."""


def together(act: Callable[[], Result], group: dist.ProcessGroup | None = None) -> list[Result]:
    """Does something on every rank; collective.

    Args:
        act: what each rank does, without the others; its result is sent to all, so it should be small.
        group: of the ranks; None: all of them.

    Returns:
        Results by rank.

    Raises:
        RankError: it failed somewhere.
    """
    result, complaint = None, None
    try:
        result = act()
    except Exception as error:  # whatever it is, the other ranks must not wait for this one
        complaint = f"rank {dist.get_rank(group)}: {error}"
    answers: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(answers, (result, complaint), group=group)
    complaints = [complaint for _, complaint in answers if complaint is not None]
    if complaints:
        raise RankError("; ".join(complaints))
    return [result for result, _ in answers]
