"""What the name of a model says: where it comes from, and what kind of problem it solves."""

from enum import StrEnum
from typing import Final

TORCHVISION: Final = "torchvision:"
TIMM: Final = "timm:"
_SEGMENTATION: Final = ("fcn_", "deeplabv3_", "lraspp_")
"""How the names of torchvision's segmentation models begin; a test holds this to its list."""


class Problem(StrEnum):
    """What a network predicts, which decides labels and loss."""

    SEGMENTATION = "segmentation"
    """A class for each pixel."""
    CLASSIFICATION = "classification"
    """A class for each image."""


CLASSES: Final = {Problem.SEGMENTATION: 19, Problem.CLASSIFICATION: 1000}
"""Of Cityscapes and of ImageNet: what networks of these kinds are built for."""


def problem_of(model: str) -> Problem:
    """The problem of a model, by its name; your own factories make segmentation networks."""
    is_torchvision = model.startswith(TORCHVISION)
    segments = model.removeprefix(TORCHVISION).startswith(_SEGMENTATION)
    if model.startswith(TIMM) or (is_torchvision and not segments):
        return Problem.CLASSIFICATION
    return Problem.SEGMENTATION


def is_factory(model: str) -> bool:
    """Whether a name is `package.module:factory` or `file.py:factory`."""
    return ":" in model and not model.startswith((TORCHVISION, TIMM))


def may_keep_own_norm(model: str) -> bool:
    """Whether a model may be built in the norm that it names itself: timm's and your own."""
    return model.startswith(TIMM) or is_factory(model)
