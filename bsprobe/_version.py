"""The version of bsprobe; this module imports nothing, so every other module can import it."""

__version__ = "0.2.0"
