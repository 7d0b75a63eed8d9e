"""The plan of a run, for `--dry-run`."""

from pathlib import Path

from bsprobe.records.runs import DeviceInfo, SearchMethod, Settings
from bsprobe.records.trials import Source
from bsprobe.records.units import format_bytes, format_seconds
from bsprobe.records.variants import labels
from bsprobe.report.run.sentences import portrait_warnings, wanted_batch

_SEARCHES = {
    SearchMethod.ORDINARY: "batch 1, 2, 4 ... until one fails or {most} ran",
    SearchMethod.GUIDED: "half the predicted batch, then the corrected prediction",
}
_PREDICTED = "Trials are predicted from a trace; nothing runs on a GPU."


def render(settings: Settings, out: Path | None, device: DeviceInfo) -> str:
    """Return the matrix and the plan as text that fits 80 columns.

    Args:
        settings: The settings of the run.
        out: The folder of the results; None: a new one below `reports`.
        device: The device of the run.
    """
    names = labels(settings.variants)
    sizes = dict.fromkeys(v.described_inputs for v in settings.variants)
    models = dict.fromkeys(v.network for v in settings.variants)
    own = settings.variants[0].own
    is_predicted = device.source is Source.PREDICTED
    limit = settings.device.memory_limit_bytes
    capped = f", with {format_bytes(limit)}" if limit is not None else ""
    if limits := settings.device.rank_limits_bytes:
        capped = f", with {', '.join(format_bytes(each) for each in limits)} by rank"
    count = settings.processes
    how = "".join(f" ({each})" for each in settings.ddp.arguments)
    together = f", {count} processes that train together{how}" if count > 1 else ""
    warm, steps = settings.warmup_steps, settings.measured_steps
    lines = [
        *[f"Warning: {warning}" for warning in portrait_warnings(settings.variants)],
        f"{', '.join(models)} {'on' if own.batches else 'at'} {', '.join(sizes)}",
        *([f"with loss {own.loss}"] if own.loss else []),
        *([f"with the optimizer of {own.optimizer}"] if own.optimizer else []),
        *([f"recomputing {own.checkpoint_blocks}"] if own.checkpoint_blocks else []),
        f"on {device.name}{', predicted' if is_predicted else ''}{capped}{together}",
        "",
        f"{len(names)} variant{'s' if len(names) > 1 else ''}:",
        *[f"  {name}" for name in names.values()],
        "",
        "For each:",
        f"  1. {_SEARCHES[settings.search].format(most=settings.max_batch)}",
        "  2. the exact boundary, both sides in fresh processes",
        f"  3. the safe batch, and the step recommended for {wanted_batch(settings)}",
        f"A trial is {warm} warm-up and {steps} measured training steps; one measured step if it",
        f"exceeds the headroom. It ends after {format_seconds(settings.trial_timeout_seconds)}.",
        *([_PREDICTED] if is_predicted else []),
    ]
    if settings.validation is not None:
        lines.append(f"Each trial ends with a validation of {settings.validation_words}.")
        if settings.seeks_validation_batch:
            lines.append("More trials find the largest validation batch beside it.")
    lines.append(f"Results go to {out or 'reports/DEVICE-MODEL-SIZE'}/.")
    return "\n".join(lines)
