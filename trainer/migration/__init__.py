"""Experts that move between ranks while a run goes on."""

from trainer.migration.live import LiveMigration, build

__all__ = ["LiveMigration", "build"]
