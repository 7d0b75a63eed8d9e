"""Checks of an explanation: its sums add up, and nothing measured is in a prediction."""

from collections.abc import Iterator

from bsprobe.records.explanations import Explanation, ExplanationReport, MeasuredSide, StepTimeline
from bsprobe.records.runs import Boundary, DeviceInfo, StopReason
from bsprobe.records.trials import Source
from bsprobe.storage.checks import check_figures
from bsprobe.storage.codec import MalformedError
from bsprobe.storage.trial_checks import device_complaints


def check_explanation(report: ExplanationReport) -> None:
    """Check that the numbers of an explanation are in range and its parts agree.

    Raises:
        MalformedError: They do not; the message begins with the place.
    """
    check_figures(report)
    for complaint in _complaints(report):
        raise MalformedError(f"${complaint}")


def _complaints(report: ExplanationReport) -> Iterator[str]:
    found, device = report.explanation, report.device
    yield from _origin_complaints(found, device, Source.PREDICTED, "")
    if found.spec.variant != report.variant:
        yield ".explanation.spec.variant: it is another one than that of the file"
    yield from _sum_complaints(found, ".explanation")
    yield from _line_complaints(found)
    edge, batch = report.boundary, found.spec.batch_size
    if (batch == edge.largest and not found.fits) or (
        edge.is_exact and batch == edge.first_failure and found.fits
    ):
        yield f".explanation.fits: {found.fits}, but the boundary of batch {batch} says otherwise"
    yield from _boundary_complaints(edge, ".boundary")
    for number, remedy in enumerate(report.remedies):
        if remedy.boundary is not None:
            yield from _boundary_complaints(remedy.boundary, f".remedies[{number}].boundary")
        if remedy.impossible and (remedy.boundary or remedy.peak_bytes is not None):
            yield f".remedies[{number}].impossible: the change has results"
    if report.remedies and not report.are_remedies_known:
        yield ".are_remedies_known: false, but there are some"
    if report.measured is not None:
        yield from _measured_complaints(report, report.measured)


def _boundary_complaints(edge: Boundary, place: str) -> Iterator[str]:
    """Batches that do not follow each other, or not from the reason for the end of the search."""
    largest, first = edge.largest, edge.first_failure
    if edge.is_exact and (largest is None or first != largest + 1):
        yield f"{place}: {edge.stop}, but batches {largest} and {first} do not follow each other"
    if edge.stop is StopReason.NOTHING_FITS and largest is not None:
        yield f"{place}: {edge.stop}, but batch {largest} fits"
    if largest is not None and first is not None and first <= largest:
        yield f"{place}: batch {largest} fits, but batch {first} does not"


def _measured_complaints(report: ExplanationReport, side: MeasuredSide) -> Iterator[str]:
    found = side.explanation
    if (found is None) is (side.failure == ""):
        yield ".measured.failure: it is given if there is no explanation, and only then"
    if found is None:
        if side.device.source is not Source.MEASURED:
            yield f".measured.device.source: {side.device.source}"
        return
    yield from _origin_complaints(found, side.device, Source.MEASURED, ".measured")
    if found.spec != report.explanation.spec:
        yield ".measured.explanation.spec: it is another one than that of the prediction"
    if found.line or found.scales or found.per_image_bytes or found.next_peak_bytes is not None:
        yield ".measured.explanation.line: only a prediction has other batches"
    if not found.fits:
        yield ".measured.explanation.fits: false, but the trial ran"
    yield from _sum_complaints(found, ".measured.explanation")


def _origin_complaints(
    found: Explanation, device: DeviceInfo, source: Source, place: str
) -> Iterator[str]:
    """The device and the explanation of one side must both be measured or both predicted."""
    for what, given in ((".device", device.source), (".explanation", found.source)):
        if given is not source:
            yield f"{place}{what}.source: {given}, but this part of the file is {source}"
    for complaint in device_complaints(device):
        yield f"{place}.device{complaint}"
    if found.capacity_bytes != device.capacity_bytes:
        yield f"{place}.explanation.capacity_bytes: not the {device.capacity_bytes} of the device"


def _sum_complaints(found: Explanation, place: str) -> Iterator[str]:
    if found.peak_allocated_bytes > found.peak_reserved_bytes:
        yield f"{place}.peak_allocated_bytes: more than the reserved bytes"
    requested = sum(each.size_bytes for each in found.allocations)
    is_predicted = found.source is Source.PREDICTED
    most = found.peak_allocated_bytes if is_predicted else found.peak_reserved_bytes
    if requested > most:
        yield f"{place}.allocations: their {requested} bytes are more than the peak of {most}"
    if is_predicted and found.fits and found.peak_bytes > found.capacity_bytes:
        yield f"{place}.fits: true, but the peak of {found.peak_bytes} exceeds the capacity"
    if found.per_image_bytes and not found.scales:
        yield f"{place}.allocations: bytes per image, which are not known"
    yield from _timeline_complaints(found.timeline, f"{place}.timeline")


def _timeline_complaints(timeline: StepTimeline, place: str) -> Iterator[str]:
    samples = len(timeline.at)
    for field in ("reserved_bytes", "next_allocated_bytes"):
        found = getattr(timeline, field)
        if len(found) != samples and (found or field == "reserved_bytes"):
            yield f"{place}.{field}: not {samples}, as there are samples"
    for field in ("by_kind", "by_module"):
        for number, each in enumerate(getattr(timeline, field)):
            if len(each.sizes_bytes) != samples:
                yield f"{place}.{field}[{number}].sizes_bytes: not {samples}"
    if list(timeline.at) != sorted(set(timeline.at)) or max(timeline.at, default=0) > max(
        timeline.events, 1
    ):
        yield f"{place}.at: not ascending numbers of {timeline.events} events"


def _line_complaints(found: Explanation) -> Iterator[str]:
    """The line over several batches goes through the explained one and the next."""
    points = {point.batch: point for point in found.line}
    if not points:
        return
    place = ".explanation.line"
    if [point.batch for point in found.line] != sorted(points):
        yield f"{place}: not of ascending batches"
    here = points.get(found.spec.batch_size)
    if here is None:
        yield f"{place}: without batch {found.spec.batch_size}, which is explained"
    elif (here.used_bytes, here.fragmentation_bytes) != (found.used_bytes, found.rounding_bytes):
        yield f"{place}: another peak of batch {here.batch} than its allocations give"
    following = points.get(found.spec.batch_size + 1)
    peak = None if following is None else following.used_bytes + following.fragmentation_bytes
    if found.next_peak_bytes != peak:
        yield f".explanation.next_peak_bytes: {found.next_peak_bytes}, but the line gives {peak}"
