"""Phases and places of a training step in words."""

from bsprobe.records.explanations import NOT_ATTRIBUTED, Explanation, LinePoint

_DURING = {
    "setup": "before the first step",
    "optimizer": "in the optimizer's update",
}
"""The phases that are no pass."""


def during(phase: str) -> str:
    """Return a phase in words: `in the backward pass`, `in the optimizer's update`."""
    return _DURING.get(phase, f"in the {phase} pass")


def where(peak: Explanation | LinePoint) -> str:
    """Return the place of a peak: `in the forward pass, in the loss (mul)`."""
    if peak.module == NOT_ATTRIBUTED:
        place = peak.operator.removeprefix(NOT_ATTRIBUTED).removeprefix(": ")
        return f"{during(peak.phase)}, at a request that matches no predicted one" + (
            f" ({place})" if place else ""
        )
    # Memory in a pass that belongs to no module is of a file of an earlier version.
    is_pass = peak.phase not in _DURING
    module = f", in {peak.module or 'no module'}" if peak.module or is_pass else ""
    return f"{during(peak.phase)}{module} ({peak.operator})"
