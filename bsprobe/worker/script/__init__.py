"""Trials of users' own commands: their start, their watch, and their records."""
