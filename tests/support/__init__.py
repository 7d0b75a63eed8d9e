"""Builders, stubs and helpers that several tests share."""
