"""The event engine: the reference engine's semantics, closed loop included, in compiled code."""
