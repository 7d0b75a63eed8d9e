"""Sentences on an explanation, for terminal and markdown."""

from bsprobe.analysis.caveats import notes_on_models
from bsprobe.records.errors import UsageError
from bsprobe.records.explanations import NEGLIGIBLE_SHARE, Explanation, ExplanationReport, Row
from bsprobe.records.gpus import find_gpu
from bsprobe.records.printable import shell_line
from bsprobe.records.runs import DeviceInfo, Recommendation, Run
from bsprobe.records.trials import Source
from bsprobe.records.variants import labels
from bsprobe.report.commands import FIRST, subject_options


def subject(report: ExplanationReport) -> str:
    """Return the title: `deeplabv2-resnet101, 512x1024, fp32 / batch on RTX 3060 12GB`."""
    variant = report.variant
    name = labels([variant])[variant]
    device = report.device if report.measured is None else report.measured.device
    return f"{variant.network}, {variant.inputs}{variant.drawn_words}, {name} on {device.name}"


def source(report: ExplanationReport) -> str:
    """Return the mark of the whole report: `predicted`, or measured as well."""
    return "predicted" if recorded(report) is None else "measured and predicted"


def recorded(report: ExplanationReport) -> Explanation | None:
    """Return the explanation of the measured trial; None if all is predicted."""
    return None if report.measured is None else report.measured.explanation


def rows_shown(rows: list[Row], found: Explanation) -> list[Row]:
    """Return rows in their order, with the small ones of each level summed up in one.

    Rows below `NEGLIGIBLE_SHARE` of the peak are small.

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
        if max(row.size_bytes, row.predicted_bytes) < NEGLIGIBLE_SHARE * found.peak_bytes:
            small.append(row)
        else:
            shown.append(row)
    return [*shown, *([_together(small)] if small else []), *rows[-2:]]


def share(row: Row, found: Explanation) -> str:
    """Return a row's share of the peak: `83%`."""
    return f"{row.size_bytes / found.peak_bytes:.0%}"


def command(run: Run, item: Recommendation) -> str:
    """Return the command that explains a recommended row; on a GPU it also records there."""
    variant, device = item.variant, run.device
    named = run.settings.device.device
    here = [] if named is None else ["--device", named]
    card = here if device.source is Source.MEASURED else _card(device)
    words = ["bsprobe", "explain", *card, *subject_options((variant,), FIRST)]
    if device.limit_bytes is not None:
        words += ["--memory-limit", str(device.limit_bytes)]
    return shell_line([*words, "--batch", str(item.plan.micro_batch)])


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
        per_image_bytes=sum(row.per_image_bytes or 0 for row in rows),
        depth=rows[0].depth,
        predicted_bytes=sum(row.predicted_bytes for row in rows),
    )
