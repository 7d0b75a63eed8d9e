"""Procedural street scenes: a small world in metres, drawn with its labels.

`canvas` projects and paints, the modules `surroundings`, `roadside`, `vehicles` and `people` hold
the things that stand in a street, and `street` puts them together.
"""
