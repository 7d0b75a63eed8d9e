"""Tracing of the training step on fake tensors: its allocations, in order."""
