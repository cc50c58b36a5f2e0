"""The keys of a run configuration: a JSON Schema of them all, and the reference that is printed from it."""
