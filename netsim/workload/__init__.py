"""Workloads: where the tasks of a simulation come from."""

from netsim.workload.protocol import Program, Schedules, Task, Workload

__all__ = ["Program", "Schedules", "Task", "Workload"]
