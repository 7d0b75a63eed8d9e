"""bsprobe: what batch size fits a GPU, and what to train with then."""

__version__ = "0.1.0"
