"""Controls, fields made of fields: the protocol, its implementations, their configuration and `build`."""

from typing import Annotated, ClassVar

from torch import Tensor

from netsim.foundation.contract import init_parameters
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.control.cost_gradient import CostGradient, CostGradientConfig
from trainer.flow.control.protocol import Control, ControlInputs, Controlled, controlled
from trainer.flow.control.pull import Pull, PullConfig
from trainer.flow.control.transport import Transport, TransportConfig


class OwnControl(OwnClass, frozen=True):
    """A class that keeps `Control`; its constructor may take any part of `ControlInputs`.

    A parameter ``picture`` without a default says that the control acts by pictures.
    """

    protocol: ClassVar[str] = "trainer.flow.control.Control"
    passed: ClassVar[tuple[str, ...]] = ("path", "condition", "network", "picture", "mask")


AnyConfig = CostGradientConfig | PullConfig | TransportConfig | OwnControl
Config = Annotated[AnyConfig, KindOrClass()]


def build(config: AnyConfig, inputs: ControlInputs) -> Control:
    """The control that `config.kind` or `config.class` names, for one batch.

    Raises:
        ValueError: it needs a picture and there is none, or it does not suit the path.
    """
    match config:
        case CostGradientConfig():
            return CostGradient(config, inputs)
        case PullConfig(end="source"):
            raise ValueError("end: source pulls to a noise, which inversions alone have; use data")
        case PullConfig():
            return Pull(config, _picture(config, inputs), inputs.path, inputs.mask)
        case TransportConfig():
            return Transport(config, _picture(config, inputs), inputs.path, inputs.mask)
        case OwnControl():
            if needs_picture(config):
                _picture(config, inputs)
            return build_own(config, **vars(inputs))


def needs_picture(config: AnyConfig) -> bool:
    """Whether a control acts by pictures, so that it has no meaning where examples are drawn from noise alone."""
    match config:
        case PullConfig() | TransportConfig():
            return True
        case CostGradientConfig():
            return False
        case OwnControl():
            picture = init_parameters(config.imported()).get("picture")
            return picture is not None and picture.default is picture.empty


def _picture(config: AnyConfig, inputs: ControlInputs) -> Tensor:
    if inputs.picture is None:
        raise ValueError(
            f"{config.kind}: it leads to a picture, and there is none; use the edit verb, which has pictures"
        )
    return inputs.picture


__all__ = [
    "AnyConfig",
    "Config",
    "Control",
    "ControlInputs",
    "Controlled",
    "CostGradient",
    "CostGradientConfig",
    "OwnControl",
    "Pull",
    "PullConfig",
    "Transport",
    "TransportConfig",
    "build",
    "controlled",
    "needs_picture",
]
