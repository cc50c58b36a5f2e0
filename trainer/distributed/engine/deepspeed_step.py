"""A step of DeepSpeed's ZeRO optimisers that can be refused by the norm of its gradient."""

import math
from collections.abc import Callable
from typing import Any

from deepspeed.runtime.utils import combine_grad_norm_groups
from torch import Tensor

from trainer.distributed.engine.protocol import StepOutcome

INFINITE = Tensor([math.inf])[0]


def take_zero_step(engine: Any, stage: int, objection: Callable[[float], str | None]) -> StepOutcome:
    """Lets DeepSpeed take a step, in ZeRO 1 to 3, unless there is an objection to the norm of the gradient.

    ZeRO computes the norm once, over all ranks and before it changes anything, and drops the gradients where it is not
    finite. The answer therefore takes the path of the norm: a refused step is shown an infinite one. No collective is
    added, and the optimiser's state stays as it is.
    """
    optimizer = engine.optimizer
    method = "_get_norm_groups" if stage == 3 else "scaled_global_norm"
    of_deepspeed = getattr(optimizer, method)
    outcome: StepOutcome | None = None

    def norm_or_refusal() -> Any:
        nonlocal outcome
        norms = of_deepspeed()
        norm = float(combine_grad_norm_groups(norms) if stage == 3 else norms)
        outcome = StepOutcome.judged(norm, objection)
        if outcome.taken:
            return norms
        return [INFINITE] if stage == 3 else INFINITE

    setattr(optimizer, method, norm_or_refusal)
    try:
        engine.step()
    finally:
        delattr(optimizer, method)
    if outcome is None:  # DeepSpeed found an overflow of bf16 before it asked for the norm
        outcome = StepOutcome.judged(math.inf, objection)
    assert outcome.taken != bool(optimizer.overflow)
    return outcome
