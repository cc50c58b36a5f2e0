"""What one source contributes to the report."""

from dataclasses import dataclass, field

from moe.report.page import Section


@dataclass(frozen=True)
class Part:
    """A part of the page.

    Attributes:
        rows: name and value of each figure for the terminal.
        facts: name, value and remark of each large number.
        sections: of the page.
        finding: a clause of the sentence on top, may be empty.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    finding: str = ""
