"""A step of DeepSpeed's ZeRO optimisers that can be refused by the norm of its gradient."""

import math
from collections.abc import Callable
from typing import Any

from deepspeed.runtime.utils import combine_grad_norm_groups
from torch import Tensor

from trainer.distributed.engine.protocol import StepOutcome

INFINITE = Tensor([math.inf])[0]


def take_zero_step(engine: Any, stage: int, accept: Callable[[float], bool]) -> StepOutcome:
    """Lets DeepSpeed take a step unless `accept` refuses it.

    ZeRO computes the norm once, over all ranks and before it changes anything, and drops the gradients where it is not
    finite. The answer therefore takes the way of the norm: a refused step is shown an infinite one. No collective is
    added, and the optimiser's state stays as it is.

    Args:
        engine: DeepSpeed's engine.
        stage: of ZeRO, 1 to 3.
        accept: asked with the norm of the gradient, where that is finite.
    """
    optimizer = engine.optimizer
    asked = "_get_norm_groups" if stage == 3 else "scaled_global_norm"
    of_deepspeed = getattr(optimizer, asked)
    seen = math.inf  # what stays if DeepSpeed finds an overflow of bf16 before it asks for the norm

    def norm_or_refusal() -> Any:
        nonlocal seen
        answer = of_deepspeed()
        seen = float(combine_grad_norm_groups(answer) if stage == 3 else answer)
        if math.isfinite(seen) and accept(seen):
            return answer
        return [INFINITE] if stage == 3 else INFINITE

    setattr(optimizer, asked, norm_or_refusal)
    try:
        engine.step()
    finally:
        delattr(optimizer, asked)
    return StepOutcome(seen, taken=not optimizer.overflow)
