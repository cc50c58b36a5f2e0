"""What moves the weights. The protocol is in ``protocol``; an engine's file is imported only when it is used."""

from trainer.engine.protocol import Engine, Shard, StepOutcome

__all__ = ["Engine", "Shard", "StepOutcome"]
