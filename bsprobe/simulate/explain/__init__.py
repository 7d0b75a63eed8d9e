"""Explanations of the memory of predicted steps, and of steps recorded on a GPU."""
