"""What of a training is your own, by name: arguments of the network, loss, optimizer, batches."""

import ast
import json
from dataclasses import dataclass
from typing import Any, Final

from bsprobe.model_names import Problem

LOSSES: Final = {
    "pixel-cross-entropy": Problem.SEGMENTATION,
    "image-cross-entropy": Problem.CLASSIFICATION,
}
"""The losses that are built in, and the labels that each is computed from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnParts:
    """What takes the place of ours; the same for all variants of a run.

    Callables are named as `package.module:callable` or `file.py:callable`.
    """

    model_args: tuple[tuple[str, str], ...] = ()
    """Keyword arguments of what builds the network: their names, and their values as typed."""
    loss: str | None = None
    """One of `LOSSES`, or a callable: outputs and targets in, a scalar out."""
    optimizer: str | None = None
    """A callable: the network in, its optimizer out."""
    batches: str | None = None
    """A callable: a batch size in, inputs and targets out."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of what builds the network, their values read."""
        return {name: value_of(text) for name, text in self.model_args}

    @property
    def own_loss(self) -> str | None:
        """The name of the loss that is your own, None where it is a built-in one."""
        return None if self.loss in LOSSES else self.loss

    @property
    def changes_the_step(self) -> bool:
        """Whether the loss, the optimizer or the batches are not ours."""
        return any((self.own_loss, self.optimizer, self.batches))

    def options(self) -> list[str]:
        """The words of a command line that say the same."""
        words = [
            word for name, text in self.model_args for word in ("--model-arg", f"{name}={text}")
        ]
        named = (
            ("--loss", self.loss),
            ("--optimizer-from", self.optimizer),
            ("--batch-from", self.batches),
        )
        return words + [word for option, name in named if name for word in (option, name)]


NOTHING_OWN: Final = OwnParts()


def value_of(text: str) -> Any:
    """A value as typed: a literal of Python or JSON (`3`, `[1, 2]`, `None`, `true`), else text."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # what either may raise
            continue
    return text
