"""Habits of a training loop that change its memory."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final

from bsprobe.records.errors import UsageError


class ZeroGrad(StrEnum):
    """The place of `zero_grad` in the step."""

    START = "start"
    BEFORE_BACKWARD = "before-backward"
    END = "end"


class Gradients(StrEnum):
    """The gradients after `zero_grad`."""

    NONE = "none"
    """Nothing: the default of `zero_grad` since PyTorch 2.0."""
    ZERO = "zero"
    """Zeros (`set_to_none=False`)."""


class BatchPlace(StrEnum):
    """The batch between two steps."""

    KEPT = "kept"
    """On the device, the same for all steps."""
    MOVED = "moved"
    """Moved to the device in each step, once the last one is freed."""
    OVERLAPPING = "overlapping"
    """Moved to the device in each step, before the last one is freed."""


class Outputs(StrEnum):
    """The life of the network's outputs and of the loss."""

    DROPPED = "dropped"
    """Until the loss is computed: `loss = criterion(model(images), labels)`."""
    STEP = "step"
    """Until the step ends."""
    KEPT = "kept"
    """Until the next step has made its own, as variables of a loop live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """The habits of a loop; by default those of the commonest one."""

    zero_grad: ZeroGrad = ZeroGrad.END
    gradients: Gradients = Gradients.NONE
    batch: BatchPlace = BatchPlace.KEPT
    outputs: Outputs = Outputs.KEPT

    def __str__(self) -> str:
        """All that is not as by default, as `parsed_habits` reads it."""
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
"""The habits by name, and the values of each."""


def parsed_habits(text: str) -> Habits:
    """Habits as typed: `zero-grad=before-backward,outputs=dropped`.

    Raises:
        UsageError: A habit or its value is unknown, or one is given twice.
    """
    found: dict[str, StrEnum] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in CHOICES:
            raise UsageError(f"--loop: {name!r} is no habit", hint=f"give {_all(CHOICES)}")
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
