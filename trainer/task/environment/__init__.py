"""What objects are built from, one action after the other, and what they are worth."""

from trainer.task.environment.protocol import Environment

__all__ = ["Environment"]
