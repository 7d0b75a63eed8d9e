"""The rules by which the learning rate scales with the batch."""

from enum import StrEnum


class LearningRateRule(StrEnum):
    """The rule by which the learning rate scales with the effective batch."""

    LINEAR = "linear"
    SQRT = "sqrt"
