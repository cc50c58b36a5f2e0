"""Observation of a run: sinks for its metrics, and measures of its samples."""

from trainer.observe.protocol import Sink

__all__ = ["Sink"]
