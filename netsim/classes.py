"""Section ``classes`` of a scenario: classes of traffic, and who of them goes first."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from netsim.documents import Section

Name = Annotated[str, Field(pattern=r"^[\w.+-]{1,40}$")]


class ClassConfig(Section, frozen=True):
    """An entry of ``classes``; a name alone stands for a class without a weight.

    Args:
        name: Its name.
        weight: Its share of a link's bytes beside those of the others that have packets; without one it goes first.
    """

    name: Name
    weight: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None


def _with_a_name(value: object) -> object:
    """Replaces a name by the section that it stands for."""
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, (Mapping, ClassConfig)):
        raise ValueError("it is no class; write its name, or a name and a weight: {name: bulk, weight: 3}")
    return value


def _in_order(classes: Sequence[ClassConfig]) -> Sequence[ClassConfig]:
    """Refuses a name that occurs twice, and a class without a weight behind one with a weight."""
    for number, entry in enumerate(classes):
        before = classes[:number]
        if any(entry.name == other.name for other in before):
            raise ValueError(f"the class {entry.name} occurs twice; remove one")
        if entry.weight is None and any(other.weight for other in before):
            problem = f"{entry.name} has no weight and stands behind classes that take turns"
            raise ValueError(f"{problem}; give it a weight, or move it to the front, where it goes first")
    return classes


Classes = Annotated[
    tuple[Annotated[ClassConfig, BeforeValidator(_with_a_name, json_schema_input_type=Name | ClassConfig)], ...],
    Field(min_length=1, max_length=8),
    AfterValidator(_in_order),
]
