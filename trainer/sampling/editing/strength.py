"""A control with a share of its strength."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.flow.control import AnyConfig, OwnControl


def scaled(controls: Sequence[AnyConfig], strength: float) -> tuple[AnyConfig, ...]:
    """Controls at a share of their strength, from 0 to 1; at 0 there are none, so that what follows is the field
    itself.
    """
    if strength in (0.0, 1.0):
        return tuple(controls) if strength else ()
    return tuple(_scaled(control, strength) for control in controls)


def check_scalable(controls: Sequence[AnyConfig], strengths: Sequence[float]) -> None:
    """Refuses shares of the strength of a control that has none: a user's class without a setting ``strength``."""
    between = [strength for strength in strengths if 0 < strength < 1]
    for number, control in enumerate(controls):
        if between and isinstance(control, OwnControl) and not isinstance(control.setting("strength"), int | float):
            raise ValueError(
                f"strengths: {between[0]:g}, but controls.{number} ({control.kind}) has no setting named strength; use "
                "0 and 1 alone, or give the class one"
            )


def _scaled(control: AnyConfig, strength: float) -> AnyConfig:
    if isinstance(control, OwnControl):
        return control.with_settings(strength=strength * control.setting("strength"))
    return control.model_copy(update={"strength": strength * control.strength})
