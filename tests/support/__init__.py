"""Builders, stubs and helpers shared by several tests."""
