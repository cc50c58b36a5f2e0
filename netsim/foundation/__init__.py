"""Sections of a configuration, and the complaint and remedy where one is wrong."""
