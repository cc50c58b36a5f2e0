"""Controls of samples, as a section ``sample`` lists them."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from netsim.foundation.own_class import KindOrClass, OwnClass
from netsim.foundation.settings import kind_of, sections_in
from trainer.flow import control
from trainer.flow.control import CostGradientConfig, OwnControl, needs_picture

SampleControl = CostGradientConfig | OwnControl
"""What changes the field of samples, which have no picture to lead to."""

_OF_PICTURES = {kind_of(section) for section in sections_in(control.AnyConfig) if not issubclass(section, OwnClass)} - {
    kind_of(CostGradientConfig)
}


def _kinds_of_samples(listed: Any) -> Any:
    """Refuses kinds that only pictures give a meaning."""
    for number, written in enumerate(listed if isinstance(listed, list | tuple) else ()):
        kind = written.get("kind") if isinstance(written, dict) else getattr(written, "kind", None)
        if kind in _OF_PICTURES:
            raise ValueError(_leads_to_a_picture(number, "kind", kind))
    return listed


def _classes_of_samples(listed: tuple[SampleControl, ...]) -> tuple[SampleControl, ...]:
    """Refuses classes that ask for a picture."""
    for number, one in enumerate(listed):
        if needs_picture(one):
            raise ValueError(_leads_to_a_picture(number, "class", one.kind))
    return listed


def _leads_to_a_picture(number: int, key: str, kind: Any) -> str:
    return (
        f"{number}.{key}: {kind} leads to a picture, and samples have none; remove it, or use the edit verb, which has "
        "pictures"
    )


Controls = Annotated[
    tuple[Annotated[SampleControl, KindOrClass()], ...],
    BeforeValidator(_kinds_of_samples),
    AfterValidator(_classes_of_samples),
    Field(exclude_if=lambda listed: not listed),
]
"""Changes of the field that samples follow; an empty list is not written, so that it changes no digest of a run."""
