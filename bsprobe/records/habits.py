"""Habits of a training loop that change its memory, as given by `--loop`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from bsprobe.records.errors import UsageError


class ZeroGrad(StrEnum):
    """The position of `zero_grad` in the step."""

    START = "start"
    BEFORE_BACKWARD = "before-backward"
    END = "end"


class Gradients(StrEnum):
    """The gradients after `zero_grad`."""

    NONE = "none"
    """Gradients are None, the default of `zero_grad` since PyTorch 2.0."""
    ZERO = "zero"
    """Gradients are zeros (`set_to_none=False`)."""


class BatchPlace(StrEnum):
    """The handling of the batch between two steps."""

    KEPT = "kept"
    """One batch on the device serves all steps."""
    MOVED = "moved"
    """Each step moves a batch to the device after the previous one is freed."""
    OVERLAPPING = "overlapping"
    """Each step moves a batch to the device before the previous one is freed."""


class Outputs(StrEnum):
    """The lifetime of the network's outputs and of the loss."""

    DROPPED = "dropped"
    """Until the loss is computed: `loss = criterion(model(images), labels)`."""
    STEP = "step"
    """Until the step ends."""
    KEPT = "kept"
    """Until the next step assigns the same variables of the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The habits of a training loop; the defaults are those of the most common loop."""

    zero_grad: ZeroGrad = ZeroGrad.END
    gradients: Gradients = Gradients.NONE
    batch: BatchPlace = BatchPlace.KEPT
    outputs: Outputs = Outputs.KEPT

    def __str__(self) -> str:
        """Format the habits that differ from the defaults, as `parsed_habits` reads them."""
        found = (
            f"{field.name.replace('_', '-')}={getattr(self, field.name)}"
            for field in fields(self)
            if getattr(self, field.name) is not field.default
        )
        return ",".join(found)


COMMONEST: Final = Habits()
CHOICES: Final = {
    "zero-grad": ZeroGrad,
    "gradients": Gradients,
    "batch": BatchPlace,
    "outputs": Outputs,
}
"""The values of each habit, by its name in `--loop`."""


def parsed_habits(text: str) -> Habits:
    """Parse the value of `--loop`: `zero-grad=before-backward,outputs=dropped`.

    Raises:
        UsageError: A habit or its value is unknown, or a habit is given twice.
    """
    found: dict[str, StrEnum] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in CHOICES:
            raise UsageError(f"--loop: {name!r} is unknown", hint=f"give {_all(CHOICES)}")
        values = [each.value for each in CHOICES[name]]
        if value not in values:
            raise UsageError(f"--loop: {name} cannot be {value!r}", hint=f"give {_all(values)}")
        if name in found:
            raise UsageError(f"--loop: {name} is given twice", hint="give it once")
        found[name] = CHOICES[name](value)
    return Habits(**{name.replace("-", "_"): value for name, value in found.items()})  # type: ignore[arg-type] # each of its own type


def _all(names: Sequence[str] | dict[str, type[StrEnum]]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
