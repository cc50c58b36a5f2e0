"""When experts should move to other ranks while a run goes on, and which; free of torch."""

from moe.migration.plan import MigrationPlan, Move, moves_between, plan_migration
from moe.migration.trigger import MigrationTrigger

__all__ = ["MigrationPlan", "MigrationTrigger", "Move", "moves_between", "plan_migration"]
