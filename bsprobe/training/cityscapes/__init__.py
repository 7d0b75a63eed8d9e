"""Cityscapes: the label table, the folder layout, the dataset, and drawn sample data."""
