"""`bsprobe explain`: the memory of a training step, by use, and ways to reduce it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.device import CAPACITY, COMPUTE_CAPABILITY, asked_gpu
from bsprobe.cli.options.named import require_device, require_named
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.subject import SUBJECT_OPTIONS, variants_from
from bsprobe.cli.options.values import axis_options, count, number, typed_command, wrote
from bsprobe.cli.printing import show
from bsprobe.records.errors import UsageError
from bsprobe.records.explanations import MODULE_DEPTH
from bsprobe.records.gpus import DEFAULT_GPU
from bsprobe.records.runs import MAX_BATCH, TRIAL_TIMEOUT_SECONDS, DeviceRequest
from bsprobe.records.units import parse_bytes
from bsprobe.worker.required import require_report_packages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bsprobe.engine.explain import Explaining
    from bsprobe.records.explanations import ExplanationReport
    from bsprobe.records.variants import Variant
    from bsprobe.report.progress import Progress


def _model_options(command: Any) -> Any:
    """Add the workload options of `run`, with one default value for each axis."""
    axes = axis_options(lambda axis: axis.defaults[:1])
    for option in reversed((*SUBJECT_OPTIONS, *axes)):
        command = option(command)
    return command


@click.command(cls=Command)
@_model_options
@click.option(
    "--gpu",
    metavar="NAME",
    help="Card to predict for; `bsprobe gpus` lists them. For any other card: custom.  "
    f"[default: the GPU of this machine, measured as well; without one, {DEFAULT_GPU}]",
)
@click.option(
    "--device",
    metavar="cuda[:N]",
    help="GPU to measure and to predict for.  [default: the first, if there is one]",
)
@CAPACITY
@COMPUTE_CAPABILITY
@click.option(
    "--memory-limit",
    type=parse_bytes,
    metavar="SIZE",
    help="Limit the memory of the card, for example to 11GiB.  [default: all of it]",
)
@count(
    "--batch",
    "batch_size",
    "Batch to explain, in images; it need not fit.  [default: the largest that fits]",
)
@count("--depth", "depth", "Levels of the module tree to list.", default=MODULE_DEPTH)
@count("--max-batch", "max_batch", "Largest batch to try, in images.", default=MAX_BATCH)
@number(
    "--trial-timeout",
    "trial_timeout_seconds",
    "SECONDS",
    "Stop a trial or an explanation after this time.",
    default=f"{TRIAL_TIMEOUT_SECONDS:g}",
)
@click.option(
    "--out",
    type=PATH,
    help="Folder for the results, new or empty.  [default: reports/explain-GPU-MODEL-SIZE-...]",
)
def explain(*, batch: int | None, depth: int, out: Path | None, **given: Any) -> None:
    """Show what uses the memory of a training step at its peak.

    Lists the bytes by kind, module and operator, and the largest batch after each change that saves
    memory. The step is predicted, on any machine. On a machine with a GPU, and without --gpu, real
    steps are recorded as well and shown beside the prediction. Each combination of listed values is
    explained separately.

    Args:
        batch: Micro-batch, in images; None for the largest that fits.
        depth: Levels of the module tree.
        out: Folder for the results; None for a new one below reports/.
        **given: The options of the workload and the device.
    """
    if given["device"] == "cpu":
        raise UsageError(
            "--device cpu: memory is recorded on GPUs only",
            hint="leave --device out: bsprobe explain predicts on any machine",
        )
    variants = variants_from(given)
    request = DeviceRequest(
        device=given["device"],
        gpu=asked_gpu({**given, "data_root": None}),
        memory_limit_bytes=given["memory_limit"],
    )
    require_device(request)
    require_named(variants)
    if out is not None and len(variants) > 1:
        raise UsageError(
            f"--out takes one variant, not {len(variants)}",
            hint="leave --out out, or give one value for each option",
        )
    require_report_packages()
    _explain(variants, request, batch, depth, out, given)


def _explain(
    variants: tuple[Variant, ...],
    request: DeviceRequest,
    batch: int | None,
    depth: int,
    out: Path | None,
    given: dict[str, Any],
) -> None:
    from rich.console import Console

    from bsprobe.engine.explain import Explaining
    from bsprobe.report.progress import Progress
    from bsprobe.storage.folders import REPORTS, explanation_name, new_folder, reserved
    from bsprobe.worker.environment import describe_environment
    from bsprobe.worker.runner import TrialRunner

    progress = Progress(Console(stderr=True))

    def start(asked: DeviceRequest, environment: Mapping[str, str]) -> TrialRunner:
        timeout = given["trial_timeout"]
        return TrialRunner(asked, variants=variants, timeout=timeout, environment=environment)

    most = given["max_batch"]
    with (
        reserved(out),
        progress.shown(),
        Explaining(start, request, max_batch=most, listener=progress) as explaining,
    ):
        environment = describe_environment(explaining.ready, typed_command())
        for variant in explaining.ready.variants or variants:
            folder = out or new_folder(REPORTS, explanation_name(explaining.device, variant))
            report = explaining.explain(variant, batch, environment, folder)
            progress.erase()
            _finish(replace(report, depth=depth), folder, explaining, progress)


def _finish(
    report: ExplanationReport, folder: Path, explaining: Explaining, progress: Progress
) -> None:
    """Show and write an explanation, then predict the remedies, show and write them.

    The remedies take most of the time: an interruption keeps what is known before.
    """
    from bsprobe.report.explain.markdown import render_changes, render_memory
    from bsprobe.report.explain.write import write_changes, write_explanation
    from bsprobe.storage.explanationfile import save_explanation

    show(render_memory(report))
    try:
        save_explanation(report, folder)
        write_explanation(report, folder)
        complete = explaining.with_remedies(report)
    except KeyboardInterrupt:
        progress.erase()
        show(wrote(folder, "explain.md"))
        raise
    progress.erase()
    show(render_changes(complete))
    save_explanation(complete, folder)
    write_changes(complete, folder)
    show(wrote(folder, "explain.md"))
