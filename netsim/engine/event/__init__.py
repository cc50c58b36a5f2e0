"""The event engine: the reference engine's semantics, closed loop included, in the compiled core."""
