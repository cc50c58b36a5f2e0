"""Ranks that ran out of time in a collective because another rank did not come."""

import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

PATIENCE_S = 5.0
"""For ranks that give up a little later than this one."""


def waited_in_vain(error: Exception) -> bool:
    """Whether a collective ran out of time, which torch says in words alone."""
    text = str(error).lower()
    return dist.is_initialized() and ("timed out" in text or "operation timeout" in text)


def ranks_that_waited(rank: int) -> set[int] | None:
    """The ranks that ran out of time in a collective, this one included; takes :data:`PATIENCE_S`.

    A rank that waits for another keeps others waiting in turn. All ranks that wait call this; the others are the cause.
    None: the store through which the ranks find each other is gone, with its node or the connection to it.
    """
    store: Any = dist.distributed_c10d._get_default_store()  # the stubs lack append
    store.set_timeout(timedelta(seconds=PATIENCE_S))
    try:
        store.append("waited_in_vain", f"{rank} ")
        time.sleep(PATIENCE_S)
        return {int(number) for number in store.get("waited_in_vain").split()}
    except RuntimeError:
        return None
