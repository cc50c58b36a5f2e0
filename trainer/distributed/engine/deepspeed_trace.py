"""The order in which DeepSpeed's ZeRO 3 expects the modules of a pass, by which it fetches parameters ahead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unordered(optimizer: Any) -> Iterator[None]:
    """While entered, ZeRO 3 learns nothing of passes for later ones; before any backward pass.

    It would learn from a pass in evaluation mode that nothing is needed once a module has computed, and remembers that
    for good: every backward pass would gather all parameters again, one module at a time.
    """
    coordinator = optimizer.parameter_offload.get_param_coordinator()
    vars(coordinator)["reset_step"] = lambda: None  # what begins a pass, and by its end has recorded the one before
    try:
        yield
    finally:
        del vars(coordinator)["reset_step"]
