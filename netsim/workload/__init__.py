"""Workloads: where the tasks of a simulation come from."""

from netsim.workload.program import Program
from netsim.workload.protocol import Schedules, Workload
from netsim.workload.tasks import Task

__all__ = ["Program", "Schedules", "Task", "Workload"]
