"""Numbers read from tensors without values: programs can log them, but not depend on them."""

from collections.abc import Callable
from typing import Any, Final, NoReturn, Self

_VALUE: Final = 1.0
"""The placeholder for the value; finite, so that a check for NaN passes."""
_ARITHMETIC: Final = (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"),
    *("__rtruediv__", "__pow__", "__rpow__", "__neg__", "__pos__", "__abs__"),
)
_DECISIONS: Final = (
    *("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__", "__bool__", "__hash__"),
    *(
        "__float__",
        "__int__",
        "__trunc__",
        "__floor__",
        "__ceil__",
        "__floordiv__",
        "__rfloordiv__",
    ),
    *("__mod__", "__rmod__", "__divmod__", "__rdivmod__", "is_integer"),
)


class UnknownNumber(float):
    """A number that can be added, scaled and formatted; comparisons and conversions raise.

    Args:
        refuse: Raises the error of a program that needs the value.
    """

    __slots__ = ("_refuse",)
    _refuse: Callable[[], NoReturn]

    def __new__(cls, refuse: Callable[[], NoReturn]) -> Self:
        """Make a number with a placeholder value."""
        number = super().__new__(cls, _VALUE)
        number._refuse = refuse
        return number

    def __round__(self, digits: Any = None) -> Any:
        """Round to some digits; rounding to an integer is refused, as that may be a size."""
        return self._refuse() if digits is None else self


def _computed(number: UnknownNumber, *_: object) -> UnknownNumber:
    return number


def _refused(number: UnknownNumber, *_: object) -> NoReturn:
    number._refuse()  # noqa: SLF001 - a method of the class, bound below


for _name in _ARITHMETIC:
    setattr(UnknownNumber, _name, _computed)
for _name in _DECISIONS:
    setattr(UnknownNumber, _name, _refused)
