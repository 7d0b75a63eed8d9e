"""Frozen dataclasses that convert to JSON: the data that all parts of bsprobe exchange."""
