"""Cityscapes: the label table, the folder layout, the dataset, and a drawn stand-in for it."""
