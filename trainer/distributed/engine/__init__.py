"""What moves the weights. The protocol is in ``protocol``; an engine's file is imported only when it is used."""

from trainer.distributed.engine.protocol import Engine, StepOutcome
from trainer.model.parallel.state import Shard

__all__ = ["Engine", "Shard", "StepOutcome"]
