"""The plan of a run, for `--dry-run`."""

from pathlib import Path

from bsprobe.records.printable import single_line
from bsprobe.records.runs import DeviceInfo, SearchMethod, Settings
from bsprobe.records.scripts import Script
from bsprobe.records.trials import Source
from bsprobe.records.units import format_bytes, format_seconds
from bsprobe.records.variants import labels
from bsprobe.report.escaping import cleaned
from bsprobe.report.run.sentences import portrait_warnings, wanted_batch

_SEARCHES = {
    SearchMethod.ORDINARY: "batch {first}, {second}, {third} ... until one fails or {most} ran",
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
    settings, device = cleaned(settings), cleaned(device)
    script = settings.script
    lines = [
        *[f"Warning: {warning}" for warning in portrait_warnings(settings.variants)],
        *(_networks(settings) if script is None else [str(script)]),
        _device(settings, device),
        "",
        *(_variants(settings) if script is None else ["The command runs with:"]),
        f"  1. {_search(settings)}",
        f"  2. the exact boundary{', both sides in fresh processes' if script is None else ''}",
        f"  3. the safe batch, and the step recommended for {wanted_batch(settings)}",
        *(_trial(settings) if script is None else _trial_of_command(settings, script)),
        *([_PREDICTED] if device.source is Source.PREDICTED else []),
    ]
    if settings.validation is not None:
        lines.append(f"Each trial ends with a validation of {settings.validation_words}.")
        if settings.seeks_validation_batch:
            lines.append("More trials find the largest validation batch beside it.")
    folder = "reports/DEVICE-MODEL-SIZE" if script is None else "reports/DEVICE-SCRIPT"
    lines.append(f"Results go to {single_line(str(out or folder))}/.")
    return "\n".join(lines)


def _networks(settings: Settings) -> list[str]:
    """The networks, their inputs and the user-supplied parts."""
    sizes = dict.fromkeys(v.described_inputs for v in settings.variants)
    models = dict.fromkeys(v.network for v in settings.variants)
    own = settings.variants[0].own
    return [
        f"{', '.join(models)} {'on' if own.batches else 'at'} {', '.join(sizes)}",
        *([f"with loss {own.loss}"] if own.loss else []),
        *([f"with the optimizer of {own.optimizer}"] if own.optimizer else []),
        *([f"recomputing {own.checkpoint_blocks}"] if own.checkpoint_blocks else []),
    ]


def _device(settings: Settings, device: DeviceInfo) -> str:
    """The device, its memory limit and the processes."""
    limit = settings.device.memory_limit_bytes
    each = "" if settings.script is None else " for each process"
    capped = f", with {format_bytes(limit)}{each}" if limit is not None else ""
    if limits := settings.device.rank_limits_bytes:
        capped = f", with {', '.join(format_bytes(each) for each in limits)} by rank"
    count = settings.processes
    how = "".join(f" ({each})" for each in settings.ddp.arguments)
    together = f", {count} processes that train together{how}" if count > 1 else ""
    predicted = ", predicted" if device.source is Source.PREDICTED else ""
    return f"on {device.name}{predicted}{capped}{together}"


def _variants(settings: Settings) -> list[str]:
    names = labels(settings.variants).values()
    count = f"{len(names)} variant{'s' if len(names) > 1 else ''}:"
    return [count, *(f"  {name}" for name in names), "", "For each:"]


def _search(settings: Settings) -> str:
    one = settings.batch_multiple
    return _SEARCHES[settings.search].format(
        first=one, second=2 * one, third=4 * one, most=settings.max_batch - settings.max_batch % one
    )


def _trial(settings: Settings) -> list[str]:
    warm, steps = settings.warmup_steps, settings.measured_steps
    return [
        f"A trial is {warm} warm-up and {steps} measured training steps; one measured step if it",
        f"exceeds the headroom. It ends after {format_seconds(settings.trial_timeout_seconds)}.",
    ]


def _trial_of_command(settings: Settings, script: Script) -> list[str]:
    steps = settings.warmup_steps + settings.measured_steps
    ends = f"A trial ends after {steps} optimizer steps"
    return [f"{ends}, or after {script.seconds:g} s without one (--seconds)."]
