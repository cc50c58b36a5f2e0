"""What stands between a network and the field that a sampler follows."""

from trainer.flow.field.causal import CausalField
from trainer.flow.field.guidance import Predict, guided
from trainer.flow.field.network import NetworkField
from trainer.flow.field.segmented import SegmentField
from trainer.flow.field.transition import TransitionField

__all__ = ["CausalField", "NetworkField", "Predict", "SegmentField", "TransitionField", "guided"]
