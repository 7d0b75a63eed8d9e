"""Sentences on the peak of the explained batch, and on the largest batch."""

from bsprobe.records.explanations import (
    NEGLIGIBLE_SHARE,
    NO_MODULE,
    NOT_ATTRIBUTED,
    Explanation,
    ExplanationReport,
    LinePoint,
    MeasuredSide,
    by_kind,
    by_module,
)
from bsprobe.records.runs import Boundary, StopReason
from bsprobe.records.units import format_bytes
from bsprobe.report.explain.places import where
from bsprobe.report.explain.sentences import share


def title(report: ExplanationReport) -> str:
    """Return the title of `why`, true at the explained batch."""
    found, boundary = report.explanation, report.boundary
    batch = found.spec.batch_size
    if not found.fits:
        return f"Why batch {batch} does not fit."
    if boundary.is_exact and boundary.largest == batch:
        return f"Why batch {boundary.first_failure} does not fit."
    return f"How much batch {batch} takes."


def why(report: ExplanationReport) -> str:
    """Return the memory of the explained batch, and its place relative to the largest batch."""
    return f"{_takes(report)} {_limit(report)}"


def _takes(report: ExplanationReport) -> str:
    found, capacity = report.explanation, report.device.capacity_bytes
    takes = f"Batch {found.spec.batch_size} takes {format_bytes(found.peak_bytes)}"
    if found.fits:
        return f"{takes} of {format_bytes(capacity)}."
    if found.peak_bytes <= capacity:
        return f"{takes} without a limit, and does not fit into {format_bytes(capacity)}."
    missing = format_bytes(found.peak_bytes - capacity)
    sentence = f"{takes}: {missing} more than the {format_bytes(capacity)} of the card."
    return sentence + _fragmentation(found.used_bytes, capacity)


def _limit(report: ExplanationReport) -> str:
    """The sentences on the largest batch: a proven one, none, or the reason why it is unknown."""
    boundary, found = report.boundary, report.explanation
    largest, batch = boundary.largest, found.spec.batch_size
    if boundary.stop is StopReason.NOTHING_FITS:
        return _none_fits(report)
    if not boundary.is_exact or largest is None:
        return _unproven(report)
    if batch == largest and found.fits:
        return _next(report)
    if found.fits and batch > largest:
        return f"Yet batch {boundary.first_failure} does not fit: the search ends at {largest}."
    if not found.fits and batch <= largest:
        return f"Yet batch {largest} fits."
    of_kernel = f" {_kernel(boundary)}" if boundary.stop is StopReason.KERNEL_LIMIT else ""
    return f"The largest batch that fits is {largest}.{of_kernel}"


def _none_fits(report: ExplanationReport) -> str:
    batch, smallest = report.explanation.spec.batch_size, report.boundary.first_failure
    if report.explanation.fits:
        return f"Yet batch {smallest} does not fit: the search ends there, at the smallest."
    if batch == smallest:
        return "No batch fits: this is the smallest."
    return f"No batch fits, not even batch {smallest}."


def _unproven(report: ExplanationReport) -> str:
    boundary, batch = report.boundary, report.explanation.spec.batch_size
    runs = "" if boundary.largest in (None, batch) else f"Batch {boundary.largest} fits. "
    if boundary.stop is StopReason.MAX_BATCH:
        return (
            f"{runs}The search tried no batch above {boundary.largest} (--max-batch), so the "
            "largest that fits is not known."
        )
    return f"{runs}The search for the largest batch failed: {boundary.detail}."


def _kernel(boundary: Boundary) -> str:
    return (
        f"Batch {boundary.first_failure} fails at a limit of a kernel, not for lack of memory: "
        f"{boundary.detail}."
    )


def _next(report: ExplanationReport) -> str:
    """The sentences on the batch after the largest one."""
    found, boundary = report.explanation, report.boundary
    capacity = report.device.capacity_bytes
    if boundary.stop is StopReason.KERNEL_LIMIT:
        return _kernel(boundary)
    needed = found.next_peak_bytes
    if needed is None or needed <= capacity:
        return f"Batch {boundary.first_failure} does not fit."
    used = max(found.timeline.next_allocated_bytes, default=0) + found.outside_allocator_bytes
    return (
        f"Batch {boundary.first_failure} would take {format_bytes(needed)}, "
        f"{format_bytes(needed - capacity)} more than the card has."
        + (_fragmentation(used, capacity) if found.timeline.next_allocated_bytes else "")
    )


def _fragmentation(used_bytes: int, capacity_bytes: int) -> str:
    """The sentence on a batch that fails only because of fragmentation."""
    if used_bytes > capacity_bytes:
        return ""
    return (
        f" Its tensors take only {format_bytes(used_bytes)} at once: it fails because the free "
        "memory is fragmented into pieces that are too small."
    )


def what(report: ExplanationReport) -> str:
    """Return the sentences on what takes the memory, as predicted."""
    return f"{_fills(report.explanation)} {arithmetic(report.explanation)}"


def _fills(found: Explanation) -> str:
    kind = max(by_kind(found), key=lambda row: row.size_bytes)
    apart = (NO_MODULE, NOT_ATTRIBUTED)
    modules = [row for row in by_module(found, 1)[:-2] if row.name not in apart]
    belongs = f", {share(modules[0], found)} belong to {modules[0].name}" if modules else ""
    return f"{share(kind, found)} of the peak are {kind.name}{belongs}. The peak is {where(found)}."


def arithmetic(found: Explanation) -> str:
    """Return the peak as a sum: fixed bytes, bytes per image, rounding and fragmentation."""
    if not found.scales:
        return "The memory per image is not known: the step runs other operators at other batches."
    batch, each = found.spec.batch_size, format_bytes(found.per_image_bytes)
    over = ", ".join(str(point.batch) for point in found.line)
    return (
        f"Each image adds {each}{f' (a line over batches {over})' if over else ''}: "
        f"{format_bytes(found.fixed_bytes)} fixed + {batch} x {each} + "
        f"{format_bytes(found.rounding_bytes)} rounding and fragmentation = "
        f"{format_bytes(found.peak_bytes)}.{_off_the_line(found)}"
    )


def _off_the_line(found: Explanation) -> str:
    """The sentence on the batch that is farthest from the line, if one is not on it."""

    def error(point: LinePoint) -> int:
        return point.used_bytes - found.fixed_bytes - point.batch * found.per_image_bytes

    farthest = max(found.line, key=lambda point: abs(error(point)), default=None)
    if farthest is None or abs(error(farthest)) < NEGLIGIBLE_SHARE * farthest.used_bytes:
        return ""
    more = "more" if error(farthest) > 0 else "less"
    is_elsewhere = where(farthest) != where(found)
    return (
        f" Batch {farthest.batch} takes {format_bytes(abs(error(farthest)))} {more} than this line"
        + (f": its peak is {where(farthest)}." if is_elsewhere else ".")
    )


def measured(side: MeasuredSide, predicted: Explanation) -> str:
    """Return the measured peak beside the predicted one."""
    batch, found = predicted.spec.batch_size, side.explanation
    if found is None:
        not_measured = f"Batch {batch} was not measured on {side.device.name}: {side.failure}."
        return _joined(not_measured, _proof(side), "All figures below are predicted.")
    error = predicted.peak_bytes / found.peak_bytes - 1
    takes = (
        f"On {side.device.name} batch {batch} takes {format_bytes(found.peak_bytes)} of "
        f"{format_bytes(found.capacity_bytes)}; the prediction is "
        f"{format_bytes(predicted.peak_bytes)} ({error:+.1%})."
    )
    return _joined(takes, _proof(side), _fills(found), _attribution(found))


def _joined(*sentences: str) -> str:
    return " ".join(each for each in sentences if each)


def _proof(side: MeasuredSide) -> str:
    """The sentence on the search on the GPU, if there was one."""
    boundary = side.boundary
    if boundary is None:
        return ""
    if boundary.stop is StopReason.NOTHING_FITS:
        return "No batch fits there."
    if boundary.stop is StopReason.KERNEL_LIMIT:
        return _kernel(boundary)
    return (
        f"Batch {boundary.first_failure} did not run there."
        if boundary.is_exact
        else (f"The search there did not find the largest batch: {boundary.detail}.")
    )


def _attribution(found: Explanation) -> str:
    """The sentence on recorded memory that matches no predicted request."""
    unknown = sum(each.size_bytes for each in found.allocations if each.kind == NOT_ATTRIBUTED)
    if not unknown:
        return "All memory recorded at the peak matches predicted requests."
    return (
        f"{format_bytes(unknown)} of it ({unknown / found.peak_bytes:.1%}) match no predicted "
        f"request: {NOT_ATTRIBUTED}."
    )
