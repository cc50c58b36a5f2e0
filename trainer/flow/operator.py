"""Linear operators, from images to what is observed of them: the protocol, its kinds, and the laws that they keep.

    operator = config.build(shape=(C, H, W), numbers=numbers, seed=seed, device=images.device)
    observed = operator.apply(images)

Random masks are a function of the seed and of each image's number, so that any batch of an image gives the same.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, Self

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from moe.seeds import fold_in
from netsim.foundation.own_class import KindOrClass, OwnClass, build_own
from netsim.foundation.picture_file import BadPicture, read_picture
from netsim.foundation.refusal import Refusal
from netsim.foundation.settings import Section
from trainer.flow.context import BoxesConfig, CentreConfig, draw_holes


class Operator(Protocol):
    """A linear map A from images [B, C, H, W] to observations [B, *S], the same for every row or one for each."""

    def apply(self, images: Tensor, /) -> Tensor:
        """The observations A x of images; differentiable."""
        ...

    def adjoint(self, observed: Tensor, /) -> Tensor:
        """The images A' y, for which <A x, y> = <x, A' y>."""
        ...

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        """The images A+ y, with A A+ A = A: of all x with the least |A x - y|, the one of least norm."""
        ...


Shape = tuple[int, int, int]
Device = torch.device | str


class BuiltIn(Section):
    """The section of an operator, which is built for the images of a batch."""

    @abstractmethod
    def build(self, shape: Shape, numbers: Tensor, *, seed: int = 0, device: Device = "cpu") -> Operator:
        """Makes the operator for images (C, H, W) with numbers int64 [B]; the seed determines random masks.

        A Refusal if the picture of a mask cannot be read, or hides all or nothing; a ValueError if it does not fit the
        images.
        """


class Identity(BuiltIn):
    """Every pixel is observed; with noise in the observations and a soft consistency, restoring removes the noise."""

    kind: Literal["identity"] = "identity"

    def apply(self, images: Tensor, /) -> Tensor:
        return images

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return observed

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        return observed

    def build(self, shape: Shape, numbers: Tensor, *, seed: int = 0, device: Device = "cpu") -> Self:  # noqa: ARG002
        return self


class AveragePool(BuiltIn):
    """The mean of each block of pixels is observed: the image at a lower resolution."""

    kind: Literal["average_pool"] = "average_pool"
    factor: int = Field(default=2, ge=2)
    """Side of a block in pixels; it divides the sides of the image."""

    def apply(self, images: Tensor, /) -> Tensor:
        return functional.avg_pool2d(images, self.factor)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return self.pseudo_inverse(observed) / self.factor**2

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        return functional.interpolate(observed, scale_factor=self.factor, mode="nearest")

    def build(self, shape: Shape, numbers: Tensor, *, seed: int = 0, device: Device = "cpu") -> Self:  # noqa: ARG002
        _, height, width = shape
        if height % self.factor or width % self.factor:
            fitting = [str(side) for side in range(2, min(height, width) + 1) if not (height % side or width % side)]
            remedy = f"use one of {', '.join(fitting)}" if fitting else "there is no such factor for these images"
            raise ValueError(
                f"factor: {self.factor} does not divide the {height} x {width} pixels of an image; {remedy}"
            )
        return self


RADIUS = 4.0
"""Standard deviations at which the Gaussian is cut off."""


class BlurConfig(BuiltIn):
    """Every observed pixel is a mean of those around it, weighted by a Gaussian."""

    kind: Literal["blur"] = "blur"
    deviation: PositiveFloat = 1.0
    """Standard deviation of the Gaussian in pixels."""
    least_singular_value: float = Field(default=0.05, gt=0, lt=1)
    """Smallest singular value that counts. Waves that the Gaussian weakens to less are not observed at all, and the
    pseudo-inverse amplifies noise in the observations by at most 1 over this value."""

    def build(self, shape: Shape, numbers: Tensor, *, seed: int = 0, device: Device = "cpu") -> Blur:  # noqa: ARG002
        return Blur(self.deviation, self.least_singular_value, shape, device)


class Blur(Operator):
    """A Gaussian blur along both axes without its weakest singular vectors; the image is mirrored at the border.

    One matrix for each axis; the singular values of the blur are the products s_i s_j, and the small ones count as 0.
    """

    def __init__(self, deviation: float, least_singular_value: float, shape: Shape, device: Device = "cpu") -> None:
        rows, columns = (torch.linalg.svd(gaussian(length, deviation)) for length in shape[1:])
        values = rows.S[:, None] * columns.S
        kept = values >= least_singular_value
        self._values = torch.where(kept, values, 0.0).float().to(device)
        self._inverse = torch.where(kept, 1 / values, 0.0).float().to(device)
        self._left = rows.U.float().to(device), columns.U.float().to(device)
        self._right = rows.Vh.T.float().to(device), columns.Vh.T.float().to(device)

    def apply(self, images: Tensor, /) -> Tensor:
        return _through(images, self._right, self._values, self._left)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return _through(observed, self._left, self._values, self._right)

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        return _through(observed, self._left, self._inverse, self._right)


def gaussian(length: int, deviation: float) -> Tensor:
    """The matrix of a Gaussian blur along an axis of `length` pixels, float64 [length, length]; each row sums to 1."""
    radius = int(RADIUS * deviation + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = (-0.5 * (offsets / deviation) ** 2).double().softmax(0)
    places = (torch.arange(length)[:, None] + offsets) % (2 * length)
    mirrored = torch.where(places < length, places, 2 * length - 1 - places)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(
        1, mirrored, weights.expand(length, len(offsets))
    )


def _through(images: Tensor, into: tuple[Tensor, Tensor], values: Tensor, out_of: tuple[Tensor, Tensor]) -> Tensor:
    waves = into[0].to(images.dtype).T @ images @ into[1].to(images.dtype)
    return out_of[0].to(images.dtype) @ (values.to(images.dtype) * waves) @ out_of[1].to(images.dtype).T


WHITE = 128
"""Pixels of a mask that are at least as bright are hidden."""


class PictureConfig(Section):
    """A mask that somebody has painted, the same for all images."""

    kind: Literal["picture"] = "picture"
    path: Path
    """A picture, white where pixels are hidden and black elsewhere; it is cut and resized as the images are."""


class MaskConfig(BuiltIn):
    """Some pixels are hidden, the others are observed as they are."""

    kind: Literal["mask"] = "mask"
    mask: Annotated[CentreConfig | BoxesConfig | PictureConfig, Field(discriminator="kind")] = CentreConfig()
    """How the hidden pixels are chosen."""

    def build(self, shape: Shape, numbers: Tensor, *, seed: int = 0, device: Device = "cpu") -> Mask:
        return Mask(self.holes(shape, numbers, seed=seed).to(device))

    def holes(self, shape: Shape, numbers: Tensor, *, seed: int) -> Tensor:
        """The hidden pixels by seed and number, bool [B, 1, H, W] on the CPU, or [1, 1, H, W] if the same for all."""
        _, height, width = shape
        if min(height, width) < 2:
            raise ValueError(f"shape: an image of {height} x {width} pixels has no inside to hide; use larger images")
        match self.mask:
            case PictureConfig(path=path):
                return _painted(path, height, width)
            case CentreConfig() as mask:
                return draw_holes(mask, 1, height, width, generator=torch.Generator())
            case BoxesConfig() as mask:
                keys = fold_in(torch.tensor(seed), numbers.cpu()).tolist()
                drawn = [
                    draw_holes(mask, 1, height, width, generator=torch.Generator().manual_seed(key)) for key in keys
                ]
                return torch.cat(drawn)


class Mask(Operator):
    """Hidden pixels, bool [B, 1, H, W] or [1, 1, H, W] for all, are 0 in the observations [B, C, H, W]."""

    def __init__(self, hole: Tensor) -> None:
        self.hole = hole

    def apply(self, images: Tensor, /) -> Tensor:
        return images.masked_fill(self.hole, 0)

    def adjoint(self, observed: Tensor, /) -> Tensor:
        return observed.masked_fill(self.hole, 0)

    def pseudo_inverse(self, observed: Tensor, /) -> Tensor:
        return observed.masked_fill(self.hole, 0)


def _painted(path: Path, height: int, width: int) -> Tensor:
    try:
        pixels = torch.from_numpy(read_picture(path, 1, height, width).copy())
    except BadPicture as error:
        raise Refusal(path, "mask.path", str(error), "give a picture, white where pixels are hidden") from error
    hole = (pixels >= WHITE)[None]
    share = float(hole.double().mean())
    if share in (0.0, 1.0):
        hidden = "no pixel" if share == 0 else "every pixel"
        problem = f"hides {hidden} at {height} x {width} pixels"
        raise Refusal(path, "mask.path", problem, "paint what is to be filled in white, and the rest in black")
    return hole


TOLERANCE = 1e-4
"""Relative tolerance of the laws; a class may compute in float32 and lose digits in a pseudo-inverse."""


def check_laws(operator: Operator, shape: Shape, num: int, *, name: str, device: Device = "cpu") -> None:
    """Tries an operator, made for `num` images, on random images; a ValueError names class, law and remedy."""
    probe = _Probe(operator, name, device)
    x, z = probe.drawn(num, *shape), probe.drawn(num, *shape)
    observed = probe.result("apply", x)
    if not observed.is_floating_point() or observed.ndim < 2 or len(observed) != num:
        returned = f"{str(observed.dtype).removeprefix('torch.')} {list(observed.shape)}"
        raise ValueError(f"class: {name}: apply returns {returned} for {num} images; return floats [{num}, ...]")
    y = probe.drawn(*observed.shape)
    back = probe.result("adjoint", y, like=x)
    inverse = probe.result("pseudo_inverse", observed, like=x)
    other = probe.result("pseudo_inverse", probe.result("apply", z, like=observed), like=x)
    probe.compare(
        "A (x + 2 z) = A x + 2 A z", probe.result("apply", x + 2 * z), observed + 2 * probe.result("apply", z)
    )
    changed = torch.cat([z[:1], x[1:]])
    probe.compare("rows do not see each other", probe.result("apply", changed)[1:], observed[1:])
    scale = float(observed.norm() * y.norm())
    probe.compare("<A x, y> = <x, A' y>", (observed * y).sum(), (x * back).sum(), scale)
    probe.compare("A A+ A = A", probe.result("apply", inverse), observed)
    scale = float(inverse.norm() * z.norm())
    probe.compare("A+ A is symmetric", (inverse * z).sum(), (x * other).sum(), scale)


class _Probe:
    def __init__(self, operator: Operator, name: str, device: Device) -> None:
        self._operator, self._name, self._device = operator, name, device
        self._generator = torch.Generator().manual_seed(0)

    def drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device)

    @torch.no_grad()
    def result(self, method: str, values: Tensor, like: Tensor | None = None) -> Tensor:
        subject = f"class: {self._name}: {method}"
        call: Callable[[Tensor], Tensor] = getattr(self._operator, method)
        try:
            returned = call(values)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{subject} fails on values of shape {list(values.shape)} with {type(error).__name__}: {reason}"
            ) from error
        if not isinstance(returned, Tensor):
            raise ValueError(f"{subject} returns {type(returned).__name__}; return a tensor")
        if like is not None and returned.shape != like.shape:
            raise ValueError(f"{subject} returns {list(returned.shape)}; return {list(like.shape)}")
        if not bool(returned.isfinite().all()):
            raise ValueError(f"{subject} returns values that are not finite for random images; make it finite")
        return returned

    def compare(self, law: str, left: Tensor, right: Tensor, scale: float | None = None) -> None:
        if left.shape != right.shape:
            raise ValueError(
                f"class: {self._name} breaks {law}: the shapes are {list(left.shape)}, {list(right.shape)}"
            )
        against = float(right.norm()) if scale is None else scale
        difference = float((left - right).norm())
        if difference > TOLERANCE * max(against, torch.finfo(torch.float32).tiny):
            raise ValueError(
                f"class: {self._name} breaks the law {law}: on random images both sides differ by "
                f"{difference / max(against, 1e-30):.1e} of their size; correct {_remedy(law)}"
            )


def _remedy(law: str) -> str:
    if "A+" in law:
        return "its pseudo_inverse"
    return "its adjoint" if "A'" in law else "its apply"


class OwnOperator(OwnClass, frozen=True):
    """A class that keeps `Operator`.

    Its constructor may take ``shape``, (C, H, W) of an image, ``numbers``, int64 [B] of the images that it will be
    applied to, and their ``device``. It is tried on random images before it is used.
    """

    protocol: ClassVar[str] = "trainer.flow.operator.Operator"
    passed: ClassVar[tuple[str, ...]] = ("shape", "numbers", "device")

    def build(self, shape: Shape, numbers: Tensor, *, seed: int = 0, device: Device = "cpu") -> Operator:  # noqa: ARG002
        made = build_own(self, shape=shape, numbers=numbers, device=device)
        operator = made.build(shape, numbers, device=device) if isinstance(made, BuiltIn) else made
        check_laws(operator, shape, len(numbers), name=self.class_path, device=device)
        return operator


AnyConfig = MaskConfig | AveragePool | BlurConfig | Identity | OwnOperator
Config = Annotated[AnyConfig, KindOrClass()]
