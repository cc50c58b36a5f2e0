"""The optimiser's settings, and the learning rate as a function of the optimiser step."""

import math

from trainer.config.sections import OptimConfig


def learning_rate(optim: OptimConfig, step: int) -> float:
    """Linear warm-up, then half a cosine to the final rate at the last step; `step` is about to be taken, from 1."""
    if step <= optim.warmup_steps:
        return optim.lr * step / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
    return optim.final_lr + (optim.lr - optim.final_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def changed_schedule(optim: OptimConfig, steps_before: int, step: int) -> str | None:
    """A line on the change of the learning rate by another number of steps, for a run that resumes at `step`."""
    if steps_before == optim.steps or step >= optim.steps:
        return None
    last = learning_rate(optim.model_copy(update={"steps": steps_before}), step)
    following = learning_rate(optim, step + 1)
    return (
        f"optim.steps: {optim.steps} in place of {steps_before} stretches the cosine: the learning rate goes from "
        f"{last:.3g} at step {step} to {following:.3g} at step {step + 1}, and falls to {optim.final_lr:g} at the end; "
        f"optim.lr={max(last, optim.final_lr):.3g} optim.final_lr={optim.final_lr:g} optim.warmup_steps=0 keep it low"
    )
