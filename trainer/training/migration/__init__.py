"""Migration of experts between ranks during a run."""
