"""Programs that depend on tensor values: the branches to trace, and errors for the rest."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar

from bsprobe.records.errors import BsprobeError
from bsprobe.records.explanations import NETWORK
from bsprobe.simulate.trace.source_lines import SourceLine

T = TypeVar("T")
_MOST_CONDITIONS: Final = 4
"""Conditions of which both branches are traced: at most sixteen programs."""
_MOST_ANSWERS: Final = 10_000
"""Answers to one condition in a recording; a loop that waits for another answer never ends."""


class Obstacle(StrEnum):
    """A reason for which a program cannot be traced."""

    VALUES = "needs the values of tensors"
    CONDITIONS = f"exceeds the limit of {_MOST_CONDITIONS} conditions on values"
    REPEATED = f"evaluates one condition on values more than {_MOST_ANSWERS} times"
    LOOP = "iterates over a tensor whose size depends on values"
    SIZE = "returns a tensor whose size depends on values and has no bound"
    LARGEST_SIZE = "returns a tensor whose size depends on values, and fails at the largest size"
    NO_KERNEL = "has no fake kernel"


_CHANGES: Final = {
    Obstacle.VALUES: (
        "compare tensors (`torch.where`, or `if a > b`) instead of numbers that `.item()` reads"
    ),
    Obstacle.CONDITIONS: "replace conditions on values by `torch.where`",
    Obstacle.REPEATED: "make the conditions of loops independent of values",
    Obstacle.LOOP: "iterate over all classes instead of those that `torch.unique` finds",
    Obstacle.SIZE: ("give the size (`output_size` of repeat_interleave, `minlength` of bincount)"),
    Obstacle.LARGEST_SIZE: "weight elements by a mask instead of selecting them",
    Obstacle.NO_KERNEL: "register a fake kernel for the operator (torch.library.register_fake)",
}
"""Changes to a program that remove an obstacle."""


class UntraceableModelError(BsprobeError):
    """The network depends on data, or calls an operator without a fake kernel.

    Args:
        obstacle: The reason.
        operator: The operator, as the dispatcher names it.
        module: The dotted path of the module that runs, or `NETWORK`; empty outside the network.
        lines: The source lines that called the operator, innermost first.
        detail: PyTorch's own message; empty if it has none.
    """

    def __init__(
        self,
        obstacle: Obstacle,
        operator: str,
        module: str,
        lines: tuple[SourceLine, ...],
        detail: str = "",
    ) -> None:
        path = module if module == NETWORK else f"module {module}"
        where = path if module else "the step"
        called = ", called by ".join(map(str, lines))
        place = f"{called}: {operator} in {where}" if called else f"{operator} in {where}"
        super().__init__(
            f"this network cannot be traced: {place} {obstacle}{f' ({detail})' if detail else ''}",
            hint=f"run on a real device (--device cuda or cpu), or {_CHANGES[obstacle]}",
        )


class TooManyConditionsError(Exception):
    """A program has too many conditions on values."""


class EndlessConditionError(Exception):
    """A program evaluates one condition too often: a loop may wait for another answer."""


@dataclass(slots=True)
class Decisions:
    """Answers to conditions on values, by place in the program; true unless given."""

    given: tuple[bool, ...] = ()
    """Answers in the order in which the places first ask."""
    taken: dict[Hashable, bool] = field(default_factory=dict)
    _count: Counter[Hashable] = field(default_factory=Counter)

    def decide(self, place: Hashable) -> bool:
        """Answer a condition; one place always gets the same answer.

        Raises:
            TooManyConditionsError: Too many places ask.
            EndlessConditionError: One place asks too often.
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
    """Run a program along each of its branches and keep the largest result.

    Branches that raise, such as failed checks, are left out unless all of them raise.

    Args:
        run: Runs the program with the given answers.
        size: The key by which results are compared.

    Returns:
        The largest result, and whether more than one branch runs.

    Raises:
        UntraceableModelError: A branch cannot be traced.
        Exception: The error of the first branch, if all branches raise.
    """
    waiting: list[tuple[bool, ...]] = [()]
    results: list[T] = []
    failure: Exception | None = None
    while waiting:
        decisions = Decisions(given=waiting.pop())
        try:
            results.append(run(decisions))
        except UntraceableModelError:
            raise  # the largest branch is then unknown
        except Exception as error:  # noqa: BLE001 - raised again if no branch runs
            failure = failure or error
        answers = tuple(decisions.taken.values())
        waiting += [
            (*answers[:number], not answers[number])
            for number in range(len(decisions.given), len(answers))
        ]
    if not results:
        assert failure is not None  # noqa: S101 - each branch has a result or an error
        raise failure
    return max(results, key=size), len(results) > 1
