"""The order in which DeepSpeed's ZeRO 3 expects the modules of a pass, by which it fetches parameters ahead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def unordered(optimizer: Any) -> Iterator[None]:
    """While entered, passes are none that DeepSpeed could take for what all passes will be; before any backward pass.

    It would learn from a pass in evaluation mode that nothing is needed once a module has computed, and remembers that
    for good: every backward pass would gather all parameters again, one module at a time.

    Args:
        optimizer: DeepSpeed's, of ZeRO 3.
    """
    coordinator = optimizer.parameter_offload.get_param_coordinator()
    vars(coordinator)["reset_step"] = lambda: None  # what begins a pass, and by its end has recorded the one before
    try:
        yield
    finally:
        del vars(coordinator)["reset_step"]
