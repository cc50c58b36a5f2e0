"""Linear operators, from images to what is observed of them: the protocol, its implementations, and `build`.

An operator is made for the images of one batch:

    operator = build(config, shape=(C, H, W), numbers=numbers, seed=seed, device=images.device)
    observed = operator.apply(images)

Random masks are a function of the seed and of each image's number, so that any batch of an image gives the same.
"""

from typing import Annotated, ClassVar

import torch
from torch import Tensor

from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from trainer.flow.operator.kinds import (
    AveragePool,
    AveragePoolConfig,
    Blur,
    BlurConfig,
    Identity,
    IdentityConfig,
    Mask,
    MaskConfig,
    PictureConfig,
    holes,
)
from trainer.flow.operator.laws import check_laws
from trainer.flow.operator.protocol import Operator


class OwnOperator(OwnClass, frozen=True):
    """A class that keeps `Operator`.

    Its constructor may take ``shape``, (C, H, W) of an image, ``numbers``, int64 [B] of the images that it will be
    applied to, and their ``device``. It is tried on random images before it is used.
    """

    protocol: ClassVar[str] = "trainer.flow.operator.Operator"
    passed: ClassVar[tuple[str, ...]] = ("shape", "numbers", "device")


AnyConfig = MaskConfig | AveragePoolConfig | BlurConfig | IdentityConfig | OwnOperator
Config = Annotated[AnyConfig, KindOrClass()]


def build(
    config: AnyConfig,
    shape: tuple[int, int, int],
    numbers: Tensor,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Operator:
    """The operator that `config.kind` or `config.class` names.

    Args:
        config: its section.
        shape: (C, H, W) of an image.
        numbers: int64 [B] of the images that it will be applied to, in this order.
        seed: of random masks.
        device: of the images.

    Raises:
        Refusal: the picture of a mask cannot be used.
        ValueError: the operator does not fit the images, or a user's class breaks a law of operators.
    """
    match config:
        case MaskConfig():
            return Mask(holes(config, shape, numbers, seed=seed).to(device))
        case AveragePoolConfig(factor=factor):
            return AveragePool(factor, shape)
        case BlurConfig(deviation=deviation, least_singular_value=least):
            return Blur(deviation, least, shape, device)
        case IdentityConfig():
            return Identity()
        case OwnOperator():
            operator = build_own(config, shape=shape, numbers=numbers, device=device)
            check_laws(operator, shape, len(numbers), name=config.class_path, device=device)
            return operator


__all__ = [
    "AnyConfig",
    "AveragePool",
    "AveragePoolConfig",
    "Blur",
    "BlurConfig",
    "Config",
    "Identity",
    "IdentityConfig",
    "Mask",
    "MaskConfig",
    "Operator",
    "OwnOperator",
    "PictureConfig",
    "build",
    "check_laws",
]
