"""Sentences and figures on the changes that save memory."""

from bsprobe.analysis.remedies import brings_something
from bsprobe.records.explanations import Explanation, ExplanationReport, RemedyResult
from bsprobe.records.runs import Boundary, StopReason
from bsprobe.records.units import format_bytes
from bsprobe.report.commands import quoted

_FREE = "none"
"""The first word of the cost of a change without a drawback."""


def what_helps(report: ExplanationReport) -> str:
    """Return the best change without a cost, and the best of all."""
    if not report.are_remedies_known:
        return "The changes are not predicted: the command is still running, or was stopped."
    boundary = report.boundary
    is_none = boundary.stop is StopReason.NOTHING_FITS
    if not (boundary.is_exact or is_none):
        return (
            "The largest batch is not known, so the changes are not compared by it: "
            f"{boundary.detail}."
        )
    before = boundary.largest or 0
    better = [each for each in report.remedies if each.largest > before]
    if not better:
        without = "lets a batch fit" if is_none else f"gives a batch larger than {before}"
        return f"No single change {without}."
    free = [each for each in better if each.cost.startswith(_FREE)]
    chosen = {each.command: each for each in (*free[:1], *better[:1])}
    words = [
        f"with `{quoted(each.command)}` it is {_number(each)} ({_price(each.cost)})"
        for each in chosen.values()
    ]
    start = "No batch fits as it is" if is_none else f"The largest batch is {before}"
    return f"{start}; " + "; ".join(words) + "."


def helping(report: ExplanationReport) -> list[RemedyResult]:
    """Return the changes that bring a larger batch or less memory, best first."""
    found, boundary = report.explanation, report.boundary
    return [each for each in report.remedies if brings_something(each, found, boundary)]


def without_gain(report: ExplanationReport) -> str:
    """Return one line on the changes that bring nothing, and on those that fail; or nothing."""
    helps = helping(report)
    others = [each for each in report.remedies if each not in helps]
    idle = [each.name for each in others if not each.impossible]
    failed = [f"{each.name} ({each.impossible})" for each in others if each.impossible]
    parts = (("Nothing gained with", idle), ("failed", failed))
    text = "; ".join(f"{start}: {', '.join(names)}" for start, names in parts if names)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def saved_per_image(result: RemedyResult, found: Explanation) -> str:
    """Return the bytes that a change saves per image: `1.20 GiB`; `-` if not known."""
    if result.per_image_bytes is None or not found.scales:
        return "-"
    return format_bytes(found.per_image_bytes - result.per_image_bytes)


def peak_words(result: RemedyResult) -> str:
    """Return the peak at the explained batch with a change; `-` if not known."""
    return "-" if result.peak_bytes is None else format_bytes(result.peak_bytes)


def batch_words(result: RemedyResult) -> str:
    """Return the largest batch of a change: `5`, `2 x N` accumulated."""
    number = largest_words(result.boundary)
    return f"{number} x N" if result.largest and result.accumulation_steps > 1 else number


def largest_words(boundary: Boundary | None) -> str:
    """Return the largest batch: `5`, `≥ 5` if larger ones may run, `none`, `-` if not known."""
    if boundary is None or not boundary.is_known:
        return "-"
    if boundary.largest is None:
        return "none"
    return str(boundary.largest) if boundary.is_exact else f"≥ {boundary.largest}"


def _number(result: RemedyResult) -> str:
    is_exact = result.boundary is not None and result.boundary.is_exact
    return str(result.largest) if is_exact else f"at least {result.largest}"


def _price(cost: str) -> str:
    return f"costs nothing{cost.removeprefix(_FREE)}" if cost.startswith(_FREE) else cost
