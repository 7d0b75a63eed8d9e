"""The types of options: text to values, with errors that name the nearest known value."""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import Any, TypeVar

import click

from bsprobe.errors import UsageError
from bsprobe.units import Resolution, parse_bytes, parse_resolution
from bsprobe.variants import AXES, Axis, parse_choices

Command = TypeVar("Command", bound=Callable[..., Any])


def resolutions(text: str) -> tuple[Resolution, ...]:
    """Parse a comma-separated list of resolutions."""
    return tuple(parse_resolution(part) for part in _parts(text, "--resolution", "512x1024"))


def model_names(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of models; whether they exist is the worker's to say."""
    return _parts(text, "--model", "deeplabv2-resnet101")


def byte_sizes(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of sizes in bytes; equal ones count as often as they stand."""
    return tuple(parse_bytes(part) for part in text.split(","))


def positive_number(option: str, *, below: float = math.inf) -> Callable[[str], float]:
    """A parser for a finite number above zero and below a bound."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            raise UsageError(
                f"{option}: '{text}' is not a number", hint="for example 0.05"
            ) from None
        if not math.isfinite(number) or not 0 < number < below:
            bound = f" and below {below:g}" if math.isfinite(below) else ", finite"
            raise UsageError(f"{option}: {text} is out of range", hint=f"above 0{bound}")
        return number

    return parse


def axis_options(
    defaults: Callable[[Axis], Sequence[StrEnum]] = attrgetter("defaults"),
) -> list[Callable[[Command], Command]]:
    """One option for each axis of the matrix; by default with the axis's own default values."""
    return [
        click.option(
            axis.option,
            axis.field,
            type=_axis_values(axis),
            metavar="LIST",
            default=",".join(str(value) for value in defaults(axis)),
            show_default=True,
            help=f"{axis.description} Any of: {', '.join(str(value) for value in axis.kind)}.",
        )
        for axis in AXES
    ]


def _axis_values(axis: Axis) -> Callable[[str], tuple[StrEnum, ...]]:
    """A parser for a comma-separated list of an axis's values."""

    def parse(text: str) -> tuple[StrEnum, ...]:
        return parse_choices(axis, text)

    return parse


def _parts(text: str, option: str, example: str) -> tuple[str, ...]:
    """The parts of a comma-separated list, each once."""
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError(f"{option} names nothing", hint=f"for example {example}")
    return parts
