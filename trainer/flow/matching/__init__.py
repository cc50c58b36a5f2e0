"""Flow matching for a training loop of one's own: the parts put together, with no run configuration."""

from trainer.flow.matching.flow_matching import FlowMatching, TrainingPoints

__all__ = ["FlowMatching", "TrainingPoints"]
