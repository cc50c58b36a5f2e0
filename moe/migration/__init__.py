"""Migration: which experts move to other ranks during a run, and when; free of torch."""

from moe.migration.plan import MigrationPlan, Move, moves_between, plan_migration
from moe.migration.trigger import MigrationTrigger

__all__ = ["MigrationPlan", "MigrationTrigger", "Move", "moves_between", "plan_migration"]
