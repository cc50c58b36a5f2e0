"""Sections of a configuration, and the problem and remedy that are reported if one is wrong."""
