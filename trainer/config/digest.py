"""What identifies the configuration of a run in the files that it writes."""

import hashlib

from trainer.config.run import RunConfig


def config_digest(config: RunConfig) -> str:
    """Hash of everything in a configuration that a trace depends on; not of where the run lives."""
    return hashlib.sha256(config.model_copy(update={"run": None}).to_yaml().encode()).hexdigest()
