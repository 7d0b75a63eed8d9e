"""Assumptions of a prediction: properties of a network that a trace without data cannot show."""

from enum import StrEnum


class Assumption(StrEnum):
    """An assumption under which a network was predicted, in the words that name it."""

    NOT_COMPILED = "as if not compiled"
    """Code that goes through `torch.compile` is run as it is written."""
    LARGEST_SIZES = "at the largest sizes"
    """A size depends on the values of tensors: the largest that it can have is taken."""
    LARGEST_BRANCH = "along the largest branch"
    """A condition depends on the values of tensors: of both branches the larger one is taken."""
    STILL_GROWING = "while memory still grew"
    """The memory at the end of a step was more than before at the last step that was traced."""
