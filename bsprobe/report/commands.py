"""Commands to type again, and the options that reproduce given variants."""

import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum

from bsprobe.records.matrix import default_norms
from bsprobe.records.variants import AXES, RGB, Variant

_WORD = r"""(?:[a-zA-Z0-9_@%+=:,./-]|'[^']*'|"'"|\$'(?:[^'\\]|\\.)*')+"""
_QUOTED = re.compile(f"{_WORD}(?: {_WORD})*", re.DOTALL)
"""Words that mean themselves to a shell, as `shlex.quote` makes them; also `$'...'`."""

Defaults = Mapping[str, Sequence[StrEnum]]
"""Default values of a command, by the field of the axis."""

FIRST: Defaults = {axis.field: axis.defaults[:1] for axis in AXES}
"""Defaults of `bsprobe explain`."""


def quoted(command: str) -> str:
    """Return a command of a file as one command for a shell, its words quoted.

    A command that bsprobe wrote stays as it is. In another one, `;`, `|` or `$(...)` become words.
    """
    if _QUOTED.fullmatch(command):
        return command
    try:
        return shlex.join(shlex.split(command))
    except ValueError:  # an open quote
        return shlex.quote(command)


def matrix_defaults(variants: Sequence[Variant]) -> Defaults:
    """Defaults of `bsprobe run` for the networks of the variants."""
    norms = dict.fromkeys(norm for v in variants for norm in default_norms(v.model))
    return {axis.field: axis.defaults for axis in AXES} | {"norm": tuple(norms)}


def subject_options(variants: Sequence[Variant], defaults: Defaults) -> list[str]:
    """The options whose matrix contains the variants.

    Args:
        variants: At least one.
        defaults: Defaults of the command; options with default values are left out.

    Returns:
        The words of the command line, unquoted.
    """
    words = ["--model", ",".join(dict.fromkeys(v.model for v in variants)), *_inputs(variants)]
    words += variants[0].own.options()
    for axis in AXES:
        values = tuple(dict.fromkeys(getattr(v, axis.field) for v in variants))
        if values != tuple(defaults[axis.field]):
            words += [axis.option, ",".join(map(str, values))]
    return words


def _inputs(variants: Sequence[Variant]) -> list[str]:
    """The option for the input size; empty if a callable makes the batches."""
    one = variants[0]
    if one.resolution is None:
        return []
    if one.channels != RGB:
        return ["--input", one.inputs]
    return ["--resolution", ",".join(dict.fromkeys(str(v.resolution) for v in variants))]
