"""What stands between a network and the field that a sampler follows."""

from trainer.model.head.blockwise import SegmentField
from trainer.model.head.field import NetworkField
from trainer.model.head.guidance import Predict, guided

__all__ = ["NetworkField", "Predict", "SegmentField", "guided"]
