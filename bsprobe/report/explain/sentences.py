"""Sentences on an explanation, for terminal and markdown."""

import shlex

from bsprobe.analysis.caveats import notes_on_models
from bsprobe.records.errors import UsageError
from bsprobe.records.explanations import (
    NO_MODULE,
    NOT_ATTRIBUTED,
    Explanation,
    ExplanationReport,
    MeasuredSide,
    RemedyResult,
    Row,
    by_kind,
    by_module,
)
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import Boundary, DeviceInfo, Recommendation, Run
from bsprobe.records.trials import Source
from bsprobe.records.units import format_bytes
from bsprobe.records.variants import labels
from bsprobe.report.commands import FIRST, subject_options

_LEAST_SHARE = 0.01
"""Rows below this share of the peak are shown as one."""
_FREE = "none"
"""The first word of the cost of a change without a drawback."""


def subject(report: ExplanationReport) -> str:
    """Return the title: `deeplabv2-resnet101, 512x1024, fp32 / batch on RTX 3060 12GB`."""
    variant = report.variant
    name = labels([variant])[variant]
    device = report.device if report.measured is None else report.measured.device
    return f"{variant.network}, {variant.inputs}{variant.drawn_words}, {name} on {device.name}"


def why(report: ExplanationReport) -> str:
    """Return the reason why this batch, or else the next one, does not fit."""
    found, capacity = report.explanation, report.device.capacity_bytes
    batch = found.spec.batch_size
    takes = f"Batch {batch} takes {format_bytes(found.peak_bytes)}"
    if not found.fits:
        missing = format_bytes(found.peak_bytes - capacity)
        return f"{takes}: {missing} more than the {format_bytes(capacity)} of the card."
    sentence = f"{takes} of {format_bytes(capacity)}"
    if found.next_peak_bytes is None:
        return f"{sentence}."
    needs = f"batch {batch + 1} would take {format_bytes(found.next_peak_bytes)}"
    if found.next_peak_bytes <= capacity:
        return f"{sentence}; {needs}, which fits as well."
    if report.boundary.largest is not None and report.boundary.largest > batch:
        return (
            f"{sentence}; {needs} including the allocator's cache, and runs because the allocator "
            "frees cached memory within the step."
        )
    missing = format_bytes(found.next_peak_bytes - capacity)
    return f"{sentence}; {needs}, {missing} more than the card has.{_fragmentation(found)}"


def _fragmentation(found: Explanation) -> str:
    """The sentence on a next batch that fails only because of fragmentation."""
    used = max(found.timeline.next_allocated_bytes, default=0) + found.outside_allocator_bytes
    if not 0 < used <= found.capacity_bytes:
        return ""
    return (
        f" Its tensors take only {format_bytes(used)} at once: it fails because the free memory is "
        "fragmented into pieces that are too small."
    )


def source(report: ExplanationReport) -> str:
    """Return the mark of the whole report: `predicted`, or measured as well."""
    return "predicted" if recorded(report) is None else "measured and predicted"


def recorded(report: ExplanationReport) -> Explanation | None:
    """Return the explanation of the measured trial; None if all is predicted."""
    return None if report.measured is None else report.measured.explanation


def measured(side: MeasuredSide, predicted: Explanation) -> str:
    """Return the measured peak beside the predicted one."""
    batch, found = predicted.spec.batch_size, side.explanation
    if found is None:
        return (
            f"Batch {batch} was not measured on {side.device.name}: {side.failure}. "
            "All figures below are predicted."
        )
    error = predicted.peak_bytes / found.peak_bytes - 1
    takes = (
        f"On {side.device.name} batch {batch} takes {format_bytes(found.peak_bytes)} of "
        f"{format_bytes(found.capacity_bytes)}; the prediction is "
        f"{format_bytes(predicted.peak_bytes)} ({error:+.1%})."
    )
    sentences = (takes, _proof(side), _fills(found), _attribution(found))
    return " ".join(each for each in sentences if each)


def _proof(side: MeasuredSide) -> str:
    if side.boundary is None or side.boundary.first_failure is None:
        return ""
    return f"Batch {side.boundary.first_failure} did not run there."


def _attribution(found: Explanation) -> str:
    """The sentence on recorded memory that matches no predicted request."""
    unknown = sum(each.size_bytes for each in found.allocations if each.kind == NOT_ATTRIBUTED)
    if not unknown:
        return "All memory recorded at the peak matches predicted requests."
    return (
        f"{format_bytes(unknown)} of it ({unknown / found.peak_bytes:.1%}) match no predicted "
        f"request: {NOT_ATTRIBUTED}."
    )


def what(report: ExplanationReport) -> str:
    """Return the sentences on what fills the card, as predicted."""
    return f"{_fills(report.explanation)} {arithmetic(report.explanation)}"


def _fills(found: Explanation) -> str:
    kind = by_kind(found)[0]
    module = next(row for row in by_module(found, 1) if row.name != NO_MODULE)
    return (
        f"{_share(kind, found)} of the peak are {kind.name}, {_share(module, found)} belong to "
        f"{module.name}. The peak is in the {found.phase} pass, in {found.module or 'no module'} "
        f"({found.operator})."
    )


def arithmetic(found: Explanation) -> str:
    """Return the peak as a sum of fixed bytes and bytes per image."""
    if not found.scales:
        return "The memory per image is not known: the step runs other operators at other batches."
    batch, each = found.spec.batch_size, found.per_image_bytes
    return (
        f"Each image adds {format_bytes(each)}: {format_bytes(found.fixed_bytes)} fixed + {batch} "
        f"x {format_bytes(each)} = {format_bytes(found.peak_bytes)}."
    )


def what_helps(report: ExplanationReport) -> str:
    """Return the best change without a cost, and the best of all."""
    if not report.boundary.is_known:
        reason = report.boundary.detail
        return f"The largest batch is not known, so changes are not compared: {reason}."
    before = report.boundary.largest or 0
    better = [each for each in report.remedies if each.largest > before]
    if not better:
        return f"No single change gives a batch larger than {before}."
    free = [each for each in better if each.cost.startswith(_FREE)]
    chosen = {each.command: each for each in (*free[:1], *better[:1])}
    words = [
        f"`{each.command}` gives {each.largest} ({_price(each.cost)})" for each in chosen.values()
    ]
    return f"Instead of batch {before}, " + "; ".join(words) + "."


def rows_shown(rows: list[Row], found: Explanation) -> list[Row]:
    """Return rows in their order, with the small ones of each level summed up in one.

    The last two rows, rounding and memory outside the allocator, are always shown.
    """
    shown: list[Row] = []
    small: list[Row] = []
    for row in rows[:-2]:
        if small and row.depth > small[0].depth:
            continue  # a part of a small row
        if small and row.depth < small[0].depth:
            shown.append(_together(small))
            small = []
        if max(row.size_bytes, row.predicted_bytes) < _LEAST_SHARE * found.peak_bytes:
            small.append(row)
        else:
            shown.append(row)
    return [*shown, *([_together(small)] if small else []), *rows[-2:]]


def share(row: Row, found: Explanation) -> str:
    """Return a row's share of the peak."""
    return _share(row, found)


def saved_per_image(result: RemedyResult, found: Explanation) -> str:
    """Return the bytes that a change saves per image: `1.20 GiB`; `-` if not known."""
    if result.per_image_bytes is None or not found.scales:
        return "-"
    return format_bytes(found.per_image_bytes - result.per_image_bytes)


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


def command(run: Run, item: Recommendation) -> str:
    """Return the command that explains a recommended row; on a GPU it also records there."""
    variant, device = item.variant, run.device
    named = run.settings.device.device
    here = [] if named is None else ["--device", named]
    card = here if device.source is Source.MEASURED else _card(device)
    words = ["bsprobe", "explain", *card, *subject_options((variant,), FIRST)]
    if device.limit_bytes is not None:
        words += ["--memory-limit", str(device.limit_bytes)]
    return shlex.join([*words, "--batch", str(item.plan.micro_batch)])


def notes(report: ExplanationReport) -> list[str]:
    """Return the notes on the network and on the card, or cards."""
    device = report.device
    found = [] if report.measured is None else list(report.measured.device.notes)
    if device.is_assumed:
        found.append(f"No GPU was named: {device.name} is assumed; `--gpu NAME` for another.")
    return [*found, *notes_on_network(report), *device.notes]


def notes_on_network(report: ExplanationReport) -> list[str]:
    """Return the notes on the network."""
    model = report.explanation.model
    return [] if model is None else notes_on_models([model])


def assumed(device: DeviceInfo) -> str:
    """Return the addition to the title if no card was named."""
    return " (no GPU was named; --gpu NAME for another)" if device.is_assumed else ""


def _price(cost: str) -> str:
    return f"costs nothing{cost.removeprefix(_FREE)}" if cost.startswith(_FREE) else cost


def _card(device: DeviceInfo) -> list[str]:
    """The options that name a card, or describe one that is not in the catalogue."""
    try:
        return ["--gpu", find_gpu(device.name).name]
    except UsageError:
        described = ["--gpu", "custom", "--capacity", str(device.total_bytes)]
        return [*described, "--compute-capability", device.compute_capability or ""]


def _together(rows: list[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    return Row(
        name=f"{len(rows)} smaller",
        size_bytes=sum(row.size_bytes for row in rows),
        per_image_bytes=sum(row.per_image_bytes for row in rows),
        depth=rows[0].depth,
        predicted_bytes=sum(row.predicted_bytes for row in rows),
    )


def _share(row: Row, found: Explanation) -> str:
    return f"{row.size_bytes / found.peak_bytes:.0%}"
