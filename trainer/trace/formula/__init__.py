"""The collectives that a run would issue, computed from its sizes alone. What sends them is in ``protocol``."""

from trainer.trace.formula.protocol import EngineTraffic, LayerTraffic
from trainer.trace.formula.trace import TraceSpec, constant_gaps, formula, recorded_gaps

__all__ = ["EngineTraffic", "LayerTraffic", "TraceSpec", "constant_gaps", "formula", "recorded_gaps"]
