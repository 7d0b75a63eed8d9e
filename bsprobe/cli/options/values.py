"""Parsers and builders of options."""

import keyword
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import click

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
from bsprobe.records.gpus import Gpu, find_gpus
from bsprobe.records.printable import shell_line, shell_word, single_line
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.units import Resolution, parse_bytes, parse_resolution
from bsprobe.records.variants import AXES, Axis, parse_choices, unknown_value
from bsprobe.records.workload import LOSSES, split_path
from bsprobe.storage.source_names import callables_hint
from bsprobe.worker.ranks.launch import command_of

_FLAT = 2
"""Sides of an image; a volume has one more."""
_MOST_DIGITS = 18
"""Digits of a number at most; Python converts up to 4300."""
_SHARES = ("headroom",)
"""Fields that may be given in percent."""
Command = TypeVar("Command", bound=Callable[..., Any])


def resolutions(text: str) -> tuple[Resolution, ...]:
    """Parse a comma-separated list of resolutions."""
    return tuple(_resolution(part) for part in _parts(text, "--resolution", "512x1024"))


def _resolution(text: str) -> Resolution:
    """Parse one resolution; for three numbers, the hint names --input."""
    if numbers := re.fullmatch(r"(\d+)x(\d+)x(\d+)", text.replace("×", "x").replace("X", "x")):  # noqa: RUF001 - users paste this sign
        channels, height, width = _channels_first(tuple(map(int, numbers.groups())))
        raise UsageError(
            f"--resolution: '{text}' is not HEIGHTxWIDTH",
            hint=f"give --resolution {height}x{width}, or with channels (first) "
            f"--input {channels}x{height}x{width}",
        )
    return parse_resolution(text)


def _channels_first(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Move the channels to the front if they are last."""
    is_last = numbers[-1] < ASKED["width"].least <= numbers[0]
    return (numbers[-1], *numbers[:-1]) if is_last else numbers


def model_names(text: str) -> tuple[str, ...]:
    """Parse a comma-separated list of networks; the names are checked later."""
    return _parts(text, "--model", "deeplabv2-resnet101")


def gpu_names(text: str) -> tuple[Gpu, ...]:
    """Parse a comma-separated list of cards in the catalogue."""
    return find_gpus(_parts(text, "--gpu", "'RTX 3090,RTX 4090'"), "--gpu")


def input_size(text: str) -> tuple[int, Resolution]:
    """Parse CHANNELSxHEIGHTxWIDTH, or CHANNELSxSLICESxHEIGHTxWIDTH for volumes."""
    parts = text.strip().replace("×", "x").replace("X", "x").split("x")  # noqa: RUF001 - users paste this sign
    channels, *sides = parts
    count = whole_number(channels)
    if count is None or len(sides) not in (_FLAT, _FLAT + 1):
        raise UsageError(
            f"--input: '{text}' is not CHANNELSxHEIGHTxWIDTH",
            hint="for example 3x512x1024; for volumes 1x96x96x96: channels, slices, height, width",
        )
    numbers = tuple(number for each in parts if (number := whole_number(each.strip())) is not None)
    if len(numbers) == len(parts) and (meant := _channels_first(numbers)) != numbers:
        raise UsageError(
            f"--input: '{text}' has its channels last",
            hint=f"give the channels first: --input {'x'.join(map(str, meant))}",
        )
    if count not in ASKED["channels"]:
        raise UsageError(
            f"--input: {channels} channels are out of range", hint=f"give {ASKED['channels']}"
        )
    size = parse_resolution("x".join(sides[-_FLAT:]))
    if len(sides) == _FLAT:
        return count, size
    slices = whole_number(sides[0])
    if slices is None or slices not in ASKED["slices"]:
        raise UsageError(
            f"--input: {sides[0]} slices are out of range", hint=f"give {ASKED['slices']}"
        )
    return count, replace(size, slices=slices)


MOST = "max"
"""The value of an option for the largest possible number."""


def validation_batch(text: str) -> int | str:
    """Parse a number of images, or `max`."""
    batch = whole_number(text)
    if text != MOST and (batch is None or batch not in ASKED["batch_size"]):
        raise UsageError(
            f"--validate-batch: '{text}' is not a number of images",
            hint=f"give {ASKED['batch_size']}, or {MOST} for the largest one beside training",
        )
    return text if batch is None else batch


def validation_size(text: str) -> Resolution:
    """Parse HEIGHTxWIDTH, or SLICESxHEIGHTxWIDTH for volumes."""
    first, *rest = text.replace("×", "x").replace("X", "x").split("x")  # noqa: RUF001 - users paste this sign
    if len(rest) != _FLAT:
        return _of_option("--validate", text)
    slices = whole_number(first)
    if slices is None or slices not in ASKED["slices"]:
        raise UsageError(
            f"--validate: {first} slices are out of range", hint=f"give {ASKED['slices']}"
        )
    return replace(_of_option("--validate", "x".join(rest)), slices=slices)


def _of_option(option: str, text: str) -> Resolution:
    """Parse a resolution; an error names the option."""
    try:
        return parse_resolution(text)
    except UsageError as error:
        raise UsageError(f"{option}: {error}", hint=error.hint) from None


def whole_number(text: str) -> int | None:
    """Parse decimal digits; None for any other text or for more than 18 digits."""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def argument(text: str) -> tuple[str, str]:
    """Parse NAME=VALUE; the value stays text. Python reads names in their NFKC form."""
    name, equals, value = text.partition("=")
    name = unicodedata.normalize("NFKC", name.strip())
    if not equals or not name.isidentifier():
        raise UsageError(
            f"--model-arg: '{text}' is not NAME=VALUE", hint="for example --model-arg width=64"
        )
    if keyword.iskeyword(name):
        raise UsageError(
            f"--model-arg: '{name}' is a keyword of Python, no argument",
            hint="for example --model-arg width=64",
        )
    return name, value


def loss_name(text: str) -> str:
    """Parse the name of a built-in loss or of a callable."""
    if ":" not in text and text not in LOSSES:
        if text.endswith(".py"):
            return callable_name("--loss")(text)
        raise unknown_value("--loss", text, [*LOSSES, "PACKAGE.MODULE:CALLABLE"])
    return text


def callable_name(option: str) -> Callable[[str], str]:
    """Return a parser for names of callables; their existence is checked later."""

    def parse(text: str) -> str:
        where, what = split_path(text)
        if not (where and what):
            found = callables_hint(where)
            raise UsageError(
                f"{option}: '{text}' is not PACKAGE.MODULE:CALLABLE",
                hint=f"for example {option} training.parts:build, or {option} train.py:build"
                if found is None
                else f"give {where}:CALLABLE; {found}",
            )
        return text

    return parse


def checkpoint_patterns(text: str) -> str:
    """Parse a comma-separated list of patterns of module names."""
    return ",".join(_parts(text, "--checkpoint-blocks", "'encoder.layer*'"))


def byte_sizes(text: str) -> tuple[int, ...]:
    """Parse a comma-separated list of sizes in bytes; duplicates are kept."""
    return tuple(parse_bytes(part) for part in text.split(","))


def number_within(option: str, field: str) -> Callable[[str | float], float]:
    """Return a parser for a number within the bounds of a field.

    Args:
        option: Name of the option, for errors.
        field: Key in `ASKED`.
    """

    def parse(given: str | float) -> float:
        text = str(given)  # click passes a default as a number
        is_percent = field in _SHARES and text.endswith("%")
        try:
            number = float(text.removesuffix("%")) / 100 if is_percent else float(text)
        except ValueError:
            example = "60" if field.endswith("_seconds") else "0.05"
            raise UsageError(
                f"{option}: '{text}' is not a number", hint=f"for example {option} {example}"
            ) from None
        if number not in ASKED[field]:
            meant = field in _SHARES and not is_percent and number / 100 in ASKED[field]
            raise UsageError(
                f"{option}: {text} is out of range",
                hint=f"give {ASKED[field]}" + (f"; did you mean {text}%?" if meant else ""),
            )
        return number

    return parse


def typed_command() -> str:
    """The command line of this process, quoted for a shell."""
    return command_of(shell_line(sys.argv[1:]), os.environ)


def wrote(folder: Path, report: str) -> str:
    """The last lines that a command prints after writing a folder."""
    named = single_line(str(folder))
    return f"Wrote {named}/\nNext: read {shell_word(f'{folder}/{report}')}"


Decorator = Callable[[Command], Command]


def count(name: str, field: str, text: str, *, default: int | None = None) -> Decorator[Any]:
    """Build an option for a whole number within the bounds of a field.

    Args:
        name: Name of the option.
        field: Key in `ASKED`.
        text: The help.
        default: The default value; None for an optional option.
    """
    return click.option(
        name,
        type=click.IntRange(int(ASKED[field].least), int(ASKED[field].most)),
        metavar="N",
        default=default,
        show_default=default is not None,
        help=text,
    )


def number(
    name: str, field: str, metavar: str, text: str, *, default: float | str | None = None
) -> Decorator[Any]:
    """Build an option for a number within the bounds of a field.

    Args:
        name: Name of the option.
        field: Key in `ASKED`.
        metavar: Placeholder of the value in the help.
        text: The help.
        default: The default value; None for an optional option.
    """
    return click.option(
        name,
        type=number_within(name, field),
        metavar=metavar,
        default=default,
        show_default=default is not None,
        help=text,
    )


LR_RULE = click.option(
    "--lr-rule",
    type=click.Choice([str(rule) for rule in LearningRateRule]),
    help="Scaling of the learning rate with the batch.  [default: linear for sgd, sqrt for adamw]",
)


_NORMS = "batch,group for DeepLabV2 and segmentation networks of torchvision, as-built for others"


def _by_network(axis: Axis, defaults: Callable[[Axis], Sequence[StrEnum]]) -> bool:
    """True for the axis of norms with all its defaults, which depend on the network."""
    return axis.field == "norm" and tuple(defaults(axis)) == axis.defaults


def axis_options(
    defaults: Callable[[Axis], Sequence[StrEnum]] = attrgetter("defaults"),
) -> list[Callable[[Command], Command]]:
    """One option for each axis of the matrix.

    Args:
        defaults: Returns the default values for an axis.
    """
    return [
        click.option(
            axis.option,
            axis.field,
            type=_axis_values(axis),
            metavar="LIST",
            default=None if _by_network(axis, defaults) else ",".join(map(str, defaults(axis))),
            show_default=True,
            help=f"{axis.description} Any of: {', '.join(str(value) for value in axis.kind)}."
            + (f"  [default: {_NORMS}]" if _by_network(axis, defaults) else ""),
        )
        for axis in AXES
    ]


def _axis_values(axis: Axis) -> Callable[[str], tuple[StrEnum, ...]]:
    """Return a parser for a comma-separated list of values of an axis."""

    def parse(text: str) -> tuple[StrEnum, ...]:
        return parse_choices(axis, text)

    return parse


def _parts(text: str, option: str, example: str) -> tuple[str, ...]:
    """The parts of a comma-separated list, without duplicates.

    Args:
        text: The list.
        option: Name of the option, for errors.
        example: A valid list, for the hint.
    """
    parts = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError(f"{option} is empty", hint=f"for example {option} {example}")
    return parts
