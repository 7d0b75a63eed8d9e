"""Explanations of a step's memory: of a predicted step, and of one that a GPU recorded."""
