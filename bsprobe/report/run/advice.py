"""Sentences for where nothing can be recommended: the reason, and options that are accepted."""

from bsprobe.records.bounds import ASKED
from bsprobe.records.failures import is_mismatch_of_sizes
from bsprobe.records.runs import StopReason, VariantResult
from bsprobe.records.units import Resolution
from bsprobe.records.variants import RGB, Checkpointing, Norm, Precision, Variant
from bsprobe.records.workload import TIMM, is_factory

_MULTIPLE = 32
"""Networks halve their images up to five times."""
_BACKBONES = ("deeplab", "resnet", "mobilenet")
"""Words in the names of networks whose residual blocks can be checkpointed."""


def without_recommendation(result: VariantResult) -> str:
    """The reason why a variant has no recommendation, and what to try."""
    boundary, size = result.boundary, result.variant.resolution
    if boundary.stop is StopReason.NOTHING_FITS:
        ways = ways_to_fit(result.variant)
        advice = f" Try {', '.join(ways)}." if ways else ""
        return f"Not even batch {boundary.first_failure} fits.{advice}"
    reason = f"no recommendation: {boundary.stop}. {boundary.detail}".strip()
    if size is None or not is_mismatch_of_sizes(boundary.detail):
        return reason
    near = nearest_multiples(size)
    if not near:
        return reason
    sizes = " or ".join(_size_option(result.variant, each) for each in near)
    return f"{reason.rstrip('.')}. Try sides that are multiples of {_MULTIPLE}: {sizes}."


def ways_to_fit(variant: Variant) -> list[str]:
    """Options that make the smallest batch take less memory."""
    ways = []
    is_known = not variant.model.startswith(TIMM) and not is_factory(variant.model)
    has_blocks = is_known and any(word in variant.model for word in _BACKBONES)
    if variant.checkpointing is Checkpointing.OFF and has_blocks:
        ways.append("--checkpointing on")
    if variant.precision is Precision.FP32:
        ways.append("--precision amp-fp16")
    if variant.norm is Norm.GROUP:
        ways.append("--norm group-amp")
    size = variant.resolution
    if size is not None and _is_accepted(half := _of(size.height // 2, size.width // 2)):
        ways.append(_size_option(variant, half))
    return ways


def nearest_multiples(size: Resolution) -> list[Resolution]:
    """The sizes below and above whose sides are multiples of 32; none where both sides are so."""
    sides = (size.height, size.width)
    below = _of(*(side // _MULTIPLE * _MULTIPLE for side in sides))
    above = _of(*(-(-side // _MULTIPLE) * _MULTIPLE for side in sides))
    return [each for each in (below, above) if each != size and _is_accepted(each)]


def _of(height: int, width: int) -> Resolution:
    return Resolution(height=height, width=width)


def _is_accepted(size: Resolution) -> bool:
    return size.height in ASKED["height"] and size.width in ASKED["width"]


def _size_option(variant: Variant, size: Resolution) -> str:
    if variant.channels == RGB:
        return f"--resolution {size}"
    return f"--input {variant.channels}x{size}"
