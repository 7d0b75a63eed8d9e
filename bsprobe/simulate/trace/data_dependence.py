"""Programs that depend on data: which of them can be traced, and words for the others."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from bsprobe.records.errors import BsprobeError
from bsprobe.simulate.trace.source_lines import SourceLine

T = TypeVar("T")
_MOST_CONDITIONS: Final = 4
"""Conditions of which both branches are traced: sixteen programs at the most."""
_MOST_ANSWERS: Final = 10_000
"""Times that one condition is answered in a recording: a loop that waits for it never ends."""


class Obstacle(StrEnum):
    """A property of an operator that keeps a program from being traced."""

    VALUES = "needs the values of tensors"
    CONDITIONS = f"is one more than the {_MOST_CONDITIONS} conditions on values that are tried"
    REPEATED = "asks a condition on values again and again"
    LOOP = "goes through a tensor whose size depends on values"
    SIZE = "makes a tensor whose size depends on values and has no bound"
    LARGEST_SIZE = "makes a tensor whose size depends on values, and fails at the largest size"
    NO_KERNEL = "has no fake kernel"


_WAYS_OUT: Final = {
    Obstacle.VALUES: (
        "probe it on a real device (--device cuda or cpu), or keep data out of the control flow: "
        "compare tensors (`torch.where`, or `if a > b`) instead of numbers that `.item()` reads"
    ),
    Obstacle.CONDITIONS: (
        "probe it on a real device (--device cuda or cpu), or choose by values within tensors "
        "(`torch.where`)"
    ),
    Obstacle.REPEATED: (
        "probe it on a real device (--device cuda or cpu), or keep data out of loops' conditions"
    ),
    Obstacle.LOOP: (
        "probe it on a real device (--device cuda or cpu), or go through what is known, such as "
        "all classes instead of those that `torch.unique` finds"
    ),
    Obstacle.SIZE: (
        "probe it on a real device (--device cuda or cpu), or give the size (`output_size` of "
        "repeat_interleave, `minlength` of bincount)"
    ),
    Obstacle.LARGEST_SIZE: (
        "probe it on a real device (--device cuda or cpu), or weight elements by a mask instead of "
        "selecting them"
    ),
    Obstacle.NO_KERNEL: (
        "probe it on a real device (--device cuda or cpu), or give the operator a fake kernel "
        "(torch.library.register_fake)"
    ),
}


class UntraceableModelError(BsprobeError):
    """The network does something that depends on data, or that fake tensors do not know.

    Args:
        obstacle: The reason.
        operator: The operator, as the dispatcher names it.
        module: The dotted path of the module that it runs in; empty for the step itself.
        lines: The lines of source that have called it, the innermost first.
        detail: What PyTorch says, if it says more.
    """

    def __init__(
        self,
        obstacle: Obstacle,
        operator: str,
        module: str,
        lines: tuple[SourceLine, ...],
        detail: str = "",
    ) -> None:
        where = f"module {module}" if module else "the step"
        called = ", called by ".join(map(str, lines))
        place = f"{called}: {operator} in {where}" if called else f"{operator} in {where}"
        super().__init__(
            f"this network cannot be traced: {place} {obstacle}{f' ({detail})' if detail else ''}",
            hint=_WAYS_OUT[obstacle],
        )


class TooManyConditionsError(Exception):
    """A program has more conditions on values than can be tried."""


class EndlessConditionError(Exception):
    """A program asks one condition again and again: a loop may wait for another answer."""


@dataclass(slots=True)
class Decisions:
    """Answers to conditions that depend on values, by the places that ask; true if not given."""

    given: tuple[bool, ...] = ()
    """In the order in which the places ask first."""
    taken: dict[Hashable, bool] = field(default_factory=dict)
    _count: Counter[Hashable] = field(default_factory=Counter)

    def decide(self, place: Hashable) -> bool:
        """Answer a condition; the same place gets the same answer each time.

        Raises:
            TooManyConditionsError: Too many places ask.
            EndlessConditionError: One asks again and again.
        """
        if place not in self.taken:
            number = len(self.taken)
            if number == _MOST_CONDITIONS:
                raise TooManyConditionsError
            self.taken[place] = self.given[number] if number < len(self.given) else True
        self._count[place] += 1
        if self._count[place] > _MOST_ANSWERS:
            raise EndlessConditionError
        return self.taken[place]


def largest_branch(run: Callable[[Decisions], T], size: Callable[[T], Any]) -> tuple[T, bool]:
    """Run a program along each of its branches, and keep what is largest.

    Branches that raise are left out, such as those of failed checks, unless all do.

    Args:
        run: Runs it with the answers that it is given.
        size: What is compared of what that gives.

    Returns:
        The largest result, and whether more than one branch runs.

    Raises:
        Exception: What the first branch has raised, where all raise.
    """
    waiting: list[tuple[bool, ...]] = [()]
    results: list[T] = []
    failure: Exception | None = None
    while waiting:
        decisions = Decisions(given=waiting.pop())
        try:
            results.append(run(decisions))
        except UntraceableModelError:
            raise  # along one branch nothing is known
        except Exception as error:  # noqa: BLE001 - raised again where no branch runs
            failure = failure or error
        answers = tuple(decisions.taken.values())
        waiting += [
            (*answers[:number], not answers[number])
            for number in range(len(decisions.given), len(answers))
        ]
    if not results:
        assert failure is not None  # noqa: S101 - each branch gives one or the other
        raise failure
    return max(results, key=size), len(results) > 1
