"""What one source contributes to the report."""

from dataclasses import dataclass, field

from moe.report.page import Section


@dataclass(frozen=True)
class Part:
    """A part of the page: figures for the terminal, large numbers, sections, and a clause for the sentence on top."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    finding: str = ""
