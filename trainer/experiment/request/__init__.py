"""Requests that are the options of their verb."""
