"""The laws of operators, tried on random images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.flow.operator.protocol import Operator

TOLERANCE = 1e-4
"""Relative; a class may compute in float32 and lose some digits in a pseudo-inverse."""


def check_laws(
    operator: Operator, shape: tuple[int, int, int], num: int, *, name: str, device: torch.device | str = "cpu"
) -> None:
    """Tries an operator, made for `num` images, on random images.

    Raises:
        ValueError: it fails, or breaks a law; one line names class, law and remedy.
    """
    probe = _Probe(operator, num, name, device)
    x, z = probe.drawn(num, *shape), probe.drawn(num, *shape)
    observed = probe.asked("apply", x)
    if not observed.is_floating_point() or observed.ndim < 2 or len(observed) != num:
        told = f"{str(observed.dtype).removeprefix('torch.')} {list(observed.shape)}"
        raise ValueError(f"class: {name}: apply returns {told} for {num} images; return floats [{num}, ...]")
    y = probe.drawn(*observed.shape)
    back = probe.asked("adjoint", y, like=x)
    inverse = probe.asked("pseudo_inverse", observed, like=x)
    other = probe.asked("pseudo_inverse", probe.asked("apply", z, like=observed), like=x)
    probe.compare("A (x + 2 z) = A x + 2 A z", probe.asked("apply", x + 2 * z), observed + 2 * probe.asked("apply", z))
    changed = torch.cat([z[:1], x[1:]])
    probe.compare("rows do not see each other", probe.asked("apply", changed)[1:], observed[1:])
    scale = float(observed.norm() * y.norm())
    probe.compare("<A x, y> = <x, A' y>", (observed * y).sum(), (x * back).sum(), scale)
    probe.compare("A A+ A = A", probe.asked("apply", inverse), observed)
    scale = float(inverse.norm() * z.norm())
    probe.compare("A+ A is symmetric", (inverse * z).sum(), (x * other).sum(), scale)


class _Probe:
    def __init__(self, operator: Operator, num: int, name: str, device: torch.device | str) -> None:
        self._operator, self._num, self._name, self._device = operator, num, name, device
        self._generator = torch.Generator().manual_seed(0)

    def drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device)

    @torch.no_grad()
    def asked(self, method: str, values: Tensor, like: Tensor | None = None) -> Tensor:
        told = f"class: {self._name}: {method}"
        call: Callable[[Tensor], Tensor] = getattr(self._operator, method)
        try:
            answer = call(values)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ValueError(
                f"{told} fails on values of shape {list(values.shape)} with {type(error).__name__}: {reason}"
            ) from error
        if not isinstance(answer, Tensor):
            raise ValueError(f"{told} returns {type(answer).__name__}; return a tensor")
        if like is not None and answer.shape != like.shape:
            raise ValueError(f"{told} returns {list(answer.shape)}; return {list(like.shape)}")
        if not bool(answer.isfinite().all()):
            raise ValueError(f"{told} returns values that are not finite for random images; make it finite")
        return answer

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
