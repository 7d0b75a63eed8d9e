"""Simulation of a training step's GPU memory, without a GPU."""
