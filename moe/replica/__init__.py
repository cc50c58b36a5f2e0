"""Replicas: experts that several ranks hold, and which of them serves a choice; free of torch."""
