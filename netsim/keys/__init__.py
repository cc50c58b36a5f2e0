"""The keys of a scenario: a JSON Schema of them all, and the reference that is printed from it."""
