"""Measures of the quality of samples and of the paths of a flow."""
