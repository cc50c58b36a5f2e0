"""The optimiser's settings, and the learning rate as a function of the optimiser step."""

import math

from trainer.config.optim import OptimConfig


def learning_rate(optim: OptimConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to the final rate at the last step.

    Args:
        optim: rates and steps of the run.
        step: the optimiser step about to be taken, 1 to ``optim.steps``.

    Returns:
        The learning rate of that step.
    """
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.final_lr + (optim.lr - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))
