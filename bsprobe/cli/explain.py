"""`bsprobe explain`: where the memory of a training step goes, and what would help."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.device import asked_gpu
from bsprobe.cli.options.named import require_device, require_named
from bsprobe.cli.options.subject import SUBJECT_OPTIONS, variants_from
from bsprobe.cli.options.values import axis_options, count, number, typed_command
from bsprobe.records.errors import UsageError
from bsprobe.records.runs import MAX_BATCH, TRIAL_TIMEOUT_SECONDS, DeviceRequest
from bsprobe.records.units import parse_bytes
from bsprobe.records.variants import Variant
from bsprobe.worker.required import require_report_packages


def _model_options(command: Any) -> Any:
    """The options of `run` that say what is trained; every axis by default at its first value."""
    axes = axis_options(lambda axis: axis.defaults[:1])
    for option in reversed((*SUBJECT_OPTIONS, *axes)):
        command = option(command)
    return command


@click.command(cls=Command)
@_model_options
@click.option(
    "--gpu",
    metavar="NAME",
    help="Predict for this card; `bsprobe gpus` lists them, custom is one that you describe.  "
    "[default: the GPU of this machine, recorded and predicted; without one, the card that "
    "bsprobe run predicts for]",
)
@click.option(
    "--device",
    metavar="cuda[:N]",
    help="The GPU to record on and to predict for.  [default: the first, if there is one]",
)
@click.option("--capacity", type=parse_bytes, metavar="SIZE", help="With --gpu custom: its memory.")
@click.option(
    "--compute-capability", metavar="X.Y", help="With --gpu custom: its compute capability."
)
@click.option(
    "--memory-limit",
    type=parse_bytes,
    metavar="SIZE",
    help="Let the card answer as one with this much memory.  [default: all there is]",
)
@count(
    "--batch",
    "batch_size",
    "Micro-batch to explain, whether it fits or not.  [default: the largest that fits; on a "
    "GPU found as by bsprobe run]",
)
@count("--depth", "depth", "Of the tree of modules.", default=2)
@count("--max-batch", "max_batch", "Never try a larger batch than this.", default=MAX_BATCH)
@number(
    "--trial-timeout",
    "trial_timeout_seconds",
    "SECONDS",
    "Give up a trial, or an explanation, after this long.",
    default=f"{TRIAL_TIMEOUT_SECONDS:g}",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for the results; new or empty.  [default: reports/explain-GPU-MODEL-SIZE-...]",
)
def explain(*, batch: int | None, depth: int, out: Path | None, **given: Any) -> None:
    """Say where the memory of a training step goes, and what would give a larger batch.

    At the peak the bytes by kind, module and operator, and for each change that may help the
    largest batch that it gives. All is predicted, on any machine; with a GPU in it and no --gpu,
    real steps are recorded besides, and what was measured stands beside the prediction. Lists are
    explained one by one.
    """
    if given["device"] == "cpu":
        raise UsageError(
            "--device cpu: only a GPU's allocator records where the memory goes",
            hint="leave it out: bsprobe explain predicts on any machine",
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
            f"--out is one folder, these are {len(variants)} variants",
            hint="leave it out, or give one value for each option",
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
    from bsprobe.report.explain.markdown import render_terminal
    from bsprobe.report.explain.write import write_explanation
    from bsprobe.report.progress import Progress
    from bsprobe.storage.explanationfile import save_explanation
    from bsprobe.storage.folders import REPORTS, explanation_name, given_folder, new_folder
    from bsprobe.worker.environment import describe_environment
    from bsprobe.worker.runner import TrialRunner

    progress = Progress(Console(stderr=True))

    def start(asked: DeviceRequest, environment: Mapping[str, str]) -> TrialRunner:
        timeout = given["trial_timeout"]
        return TrialRunner(asked, variants=variants, timeout=timeout, environment=environment)

    if out is not None:
        given_folder(out)
    most = given["max_batch"]
    with (
        progress.shown(),
        Explaining(start, request, max_batch=most, listener=progress) as explaining,
    ):
        environment = describe_environment(explaining.ready, typed_command())
        for variant in explaining.ready.variants or variants:
            folder = out or new_folder(REPORTS, explanation_name(explaining.device, variant))
            report = explaining.explain(variant, batch, environment, folder)
            progress.erase()
            save_explanation(report, folder)
            click.echo(render_terminal(report))
            write_explanation(report, folder, depth=depth)
            click.echo(f"Wrote {folder}/\nNext: read explain.md there")
