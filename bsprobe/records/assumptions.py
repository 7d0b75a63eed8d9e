"""Assumptions of a prediction about what a trace without data cannot show."""

from enum import StrEnum


class Assumption(StrEnum):
    """An assumption under which the memory of a network is predicted."""

    NOT_COMPILED = "as if not compiled"
    """Code under `torch.compile` is traced uncompiled."""
    LARGEST_SIZES = "at the largest sizes"
    """A size depends on the values of tensors; the largest possible size is used."""
    LARGEST_BRANCH = "along the largest branch"
    """A condition depends on the values of tensors; the branch that takes more memory is used."""
    STILL_GROWING = "while memory still grew"
    """Memory at the end of the last traced step was higher than at the end of the step before."""
