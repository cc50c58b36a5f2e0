"""Schedules in GOAL, the Group Operation Assembly Language, as a workload."""
