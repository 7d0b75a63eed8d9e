"""The form of user-supplied batches: the part that the network gets, and the targets."""

from dataclasses import dataclass
from enum import StrEnum


class Call(StrEnum):
    """The way in which the network gets its part of a batch."""

    ONE = "one"
    """A pair of inputs and targets; the inputs are one argument."""
    POSITIONAL = "positional"
    """A pair; the inputs are a tuple or list of arguments."""
    NAMED = "named"
    """A pair; the inputs are a dict of named arguments."""
    DETECTOR = "detector"
    """A pair; inputs and targets are two arguments."""
    FIELDS = "fields"
    """One dict or object; its fields that the network has arguments for are passed by name."""
    FIELD = "field"
    """One dict or object; one field is the only argument."""


class TargetsAre(StrEnum):
    """The kind of the targets, which decides how they are counted."""

    PIXELS = "pixels"
    """One tensor of integers with three dimensions or more."""
    CLASSES = "classes"
    """One tensor of integers with fewer dimensions."""
    VALUES = "values"
    """One tensor of other numbers."""
    IMAGES = "images"
    """A list with an entry for each image."""
    OTHER = "other"
    """Several tensors, or none."""


class LossIs(StrEnum):
    """The place of the loss in the outputs of a network."""

    ENTRY = "entry"
    """`loss` of a dict."""
    ATTRIBUTE = "attribute"
    """`loss` of an object."""
    SUM = "sum"
    """The sum of a dict of losses, as from torchvision's detectors."""
    FIRST = "first"
    """The first element of a tuple or list."""
    OF_LOGITS = "of logits"
    """The network returns no loss: it is the cross-entropy of its logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchForm:
    """The form of user-supplied batches, as the trials ran with them."""

    call: Call
    targets: TargetsAre
    fields: tuple[str, ...] = ()
    """Names of the fields that the network gets, of a batch that is one dict or object."""
    labels: tuple[str, ...] = ()
    """Names of the fields that are its targets."""
    sized: str | None = None
    """The name, or the number, of an input whose length is the number of images, if there are
    several inputs."""
    has_attributes: bool = False
    """True if the fields are attributes, not entries of a dict."""
    loss: LossIs | None = None
    """The place of the network's own loss; None with another loss."""

    def __post_init__(self) -> None:
        """Check what the code of a training is made from.

        Raises:
            ValueError: The network gets no field or one twice, or an input has no number.
        """
        if self.call in (Call.FIELDS, Call.FIELD) and not self.fields:
            raise ValueError(f"batches of {self.call} need the names of their fields")
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("a field of the batches is named twice")
        is_number = self.sized is None or (self.sized.isascii() and self.sized.isdecimal())
        if self.call is Call.POSITIONAL and not is_number:
            raise ValueError(f"{self.sized!r} is not the number of an input")
