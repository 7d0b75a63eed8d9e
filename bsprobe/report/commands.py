"""Options that name the same networks, inputs and settings as some variants."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from bsprobe.records.matrix import default_norms
from bsprobe.records.variants import AXES, RGB, Variant

Defaults = Mapping[str, Sequence[StrEnum]]
"""By the field of an axis, the values that a command takes where none is typed."""

FIRST: Defaults = {axis.field: axis.defaults[:1] for axis in AXES}
"""Those of `bsprobe explain`."""


def matrix_defaults(variants: Sequence[Variant]) -> Defaults:
    """Those of `bsprobe run` for the networks of some variants."""
    norms = dict.fromkeys(norm for v in variants for norm in default_norms(v.model))
    return {axis.field: axis.defaults for axis in AXES} | {"norm": tuple(norms)}


def subject_options(variants: Sequence[Variant], defaults: Defaults) -> list[str]:
    """The words of a command line that span a matrix with these variants.

    Args:
        variants: At least one.
        defaults: Of the command; what it takes without being told is left out.
    """
    words = ["--model", ",".join(dict.fromkeys(v.model for v in variants)), *_inputs(variants)]
    words += variants[0].own.options()
    for axis in AXES:
        values = tuple(dict.fromkeys(getattr(v, axis.field) for v in variants))
        if values != tuple(defaults[axis.field]):
            words += [axis.option, ",".join(map(str, values))]
    return words


def _inputs(variants: Sequence[Variant]) -> list[str]:
    """The option for the inputs of the network; none where batches are made by a callable."""
    one = variants[0]
    if one.resolution is None:
        return []
    if one.channels != RGB:
        return ["--input", one.inputs]
    return ["--resolution", ",".join(dict.fromkeys(str(v.resolution) for v in variants))]
