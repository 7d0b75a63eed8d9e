"""Probe, predict, explain and fit: each makes a record from settings."""
