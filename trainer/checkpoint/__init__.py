"""A run on disk: complete checkpoints, experts by logical id, a resumed run that is the same run."""
