"""Trials of users' own commands."""
