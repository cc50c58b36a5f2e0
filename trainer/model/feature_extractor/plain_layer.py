"""The description of a layer that is one module."""

from typing import Any, ClassVar, Self

from torch import nn

from netsim.foundation.settings import Section


class PlainLayer(Section):
    """A layer whose fields have the names of the arguments and attributes of its module."""

    module: ClassVar[type[nn.Module]]
    """Class of the module."""
    fixed: ClassVar[dict[str, object]] = {}
    """Attributes that a file does not hold, each with the only value that the module may have."""

    def build(self) -> nn.Module:
        """Makes the module."""
        return self.module(**self.model_dump(exclude={"kind"}))

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Describes a module of class ``cls.module``; refuses settings that a file cannot hold."""
        for name, value in cls.fixed.items():
            if getattr(module, name) != value:
                raise ValueError(f"{name} {getattr(module, name)} is not supported; use {value}")
        found: dict[str, Any] = {name: getattr(module, name) for name in cls.model_fields if name != "kind"}
        if "bias" in found:
            found["bias"] = found["bias"] is not None
        return cls.model_validate(found)
