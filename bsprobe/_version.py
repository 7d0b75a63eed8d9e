"""The version of bsprobe, in a module that imports nothing: everything may ask for it."""

__version__ = "0.2.0"
