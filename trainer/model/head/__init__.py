"""What stands between a network and the field that a sampler follows."""

from trainer.model.head.guidance import guided_field

__all__ = ["guided_field"]
