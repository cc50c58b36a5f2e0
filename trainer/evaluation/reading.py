"""What is measured of a flow beside the quality of its samples."""

from typing import Any, ClassVar, Protocol

from netsim.foundation.page import Section


class Reading(Protocol):
    """Figures of one kind about a flow: a key of the JSON, lines of a terminal and a section of the page.

    Attributes:
        name: key of the JSON; the schema of an evaluation describes it.
    """

    name: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """The figures as they are written as JSON."""
        ...

    def remarks(self) -> list[str]:
        """Lines below the table of a terminal; one line if possible."""
        ...

    def section(self) -> Section:
        """A section of the page."""
        ...
