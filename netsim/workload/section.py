"""What the sections of all workloads share."""

from pydantic import Field

from netsim.documents import Section


class WorkloadSection(Section, frozen=True):
    """Base of every section ``workload``.

    Args:
        class: Class of its packets, one of `classes`; required if the scenario has classes.
    """

    traffic_class: str | None = Field(default=None, alias="class")
