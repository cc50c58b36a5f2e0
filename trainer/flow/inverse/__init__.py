"""Solvers of inverse problems, with a flow as the prior."""
