"""`bsprobe gpus`: the catalogue of GPUs, largest batches on them, and a new entry for it."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from typing import TYPE_CHECKING, Any

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.named import require_named
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.subject import subject_options, variants_from
from bsprobe.cli.options.values import count, gpu_names, typed_command
from bsprobe.cli.printing import show, show_on_stderr, show_title
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.gpus import COLUMNS, ESTIMATE, Gpu, catalogue, find_gpu, find_gpus
from bsprobe.records.printable import single_line
from bsprobe.records.units import MIB, format_bytes
from bsprobe.report.escaping import cleaned, csv_cell

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bsprobe.records.fits import CardFit, Fitting
    from bsprobe.records.variants import Variant
    from bsprobe.worker.process import Worker

_HEADINGS = ("GPU", "capability", "usable", "outside", "allocator", "figures")
_LEGEND = """
usable   total memory as PyTorch reports it
outside  part of it outside PyTorch's allocator during training
figures  reported: published by owners of the card (--format csv has the source)
         estimated: from cards of the same capability
         outside est.: only the column outside is estimated"""
_OLD_CARDS = """\
6.0, 6.1 no tensor cores; PyTorch for CUDA 12.8 or later does not support them;
         workspaces are estimated with cuDNN 9.11 or later"""
_TRIAL_TIMEOUT_SECONDS = 300.0


@click.command("gpus", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--this",
    is_flag=True,
    help="Measure the GPU of this machine and print its catalogue entry.  [default: off]",
)
@click.option(
    "--fit",
    is_flag=True,
    help="Predict the largest batch of a network on each card.  [default: off]",
)
@click.option(
    "--gpu",
    "only",
    type=gpu_names,
    metavar="LIST",
    help="With --fit: cards to predict for.  [default: all]",
)
@count("--batch", "wanted_batch", "With --fit: batch that has to fit, in images.")
@click.option(
    "--out",
    type=PATH,
    help="With --fit: folder for the results, new or empty.  "
    "[default: reports/gpus-fit-MODEL-SIZE]",
)
@subject_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv"]),
    default="text",
    show_default=True,
    help="csv adds the source of each figure; sizes are in bytes.",
)
@click.pass_context
def gpus(
    ctx: click.Context,
    /,
    *,
    names: tuple[str, ...],
    this: bool,
    fit: bool,
    only: tuple[Gpu, ...] | None,
    form: str,
    batch: int | None,
    out: Path | None,
    **subject: Any,
) -> None:
    """List known GPUs, or predict what fits on each (--fit).

    Without NAME, lists the whole catalogue with compute capability and memory. Unambiguous short
    names work in all commands: 4090, a100-40gb.

    Args:
        ctx: The context of the command.
        names: Cards to list; empty for all.
        this: Measure the GPU of this machine.
        fit: Predict the largest batches.
        only: Cards to fit; None for all.
        form: `text` or `csv`.
        batch: Batch that has to fit, in images.
        out: Folder for the results of a fit; None for a new one below reports/.
        **subject: The options of the workload.
    """
    if this and (fit or names):
        other = "--fit" if fit else names[0]
        raise UsageError(f"--this and {other} exclude each other", hint="give one of the two")
    if not fit:
        _require_fit(ctx)
    cards = find_gpus(names, "NAME") or catalogue()
    if fit:
        variants = variants_from(subject)
        require_named(variants)
        fit_catalogue(variants, only or cards, batch, out)
    elif this:
        worker = _open()
        try:
            print_this(worker)
        finally:
            worker.close()
    elif form == "csv":
        show(_as_csv(cards).removesuffix("\n"))
    else:
        headings, *lines = _table(cards).splitlines()
        show_title(headings)
        show("\n".join(lines))
        show(_LEGEND)
        if any(card.notes for card in cards):
            show(_OLD_CARDS)


def fit_catalogue(
    variants: tuple[Variant, ...], cards: tuple[Gpu, ...], batch: int | None, out: Path | None
) -> None:
    """Predict for every card, print the table and write the report.

    Args:
        variants: The matrix to predict.
        cards: At least one.
        batch: Batch that has to fit, in images, or None.
        out: Folder for the report; None for a new one below reports/.

    Raises:
        FileError: `out` is not new or empty.
    """
    from bsprobe.report.fit import next_command, render_text, write_fitting
    from bsprobe.storage.folders import REPORTS, new_folder, reserved, slug

    with reserved(out):
        found = _fitting(variants, cards, batch)
        show(render_text(found))
        known = [each.variant for each in found.fits]
        parts = ["gpus-fit", *dict.fromkeys(variant.model for variant in known)]
        parts += dict.fromkeys(variant.inputs for variant in known)
        folder = out or new_folder(REPORTS, slug("-".join(parts)))
        write_fitting(found, folder)
    show(f"\nWrote {single_line(str(folder))}/\nNext: {next_command(found)}")


def _fitting(variants: tuple[Variant, ...], cards: tuple[Gpu, ...], batch: int | None) -> Fitting:
    from rich.console import Console

    from bsprobe.engine.fit import fit
    from bsprobe.report.progress import Progress

    total = len(cards) * len(variants)
    answers = itertools.count(1)
    progress = Progress(Console(stderr=True))

    def show(found: CardFit) -> None:
        progress.begin(f"predicted {next(answers)} of {total}, {found.gpu.name}")

    with progress.shown():
        progress.begin(f"predicting for {len(cards)} cards")
        return fit(variants, cards, batch=batch, command=typed_command(), on_fit=show)


def _require_fit(ctx: click.Context) -> None:
    """Refuse options that only --fit uses."""
    for parameter in ctx.command.params:
        name = parameter.name or ""
        is_typed = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if is_typed and name not in ("names", "this", "form"):
            raise UsageError(f"{parameter.opts[0]} requires --fit", hint="add --fit")


def _open() -> Worker:
    """Start a worker on the GPU; the hint of its error is replaced, as it is about `run`."""
    from bsprobe.records.runs import DeviceRequest
    from bsprobe.worker.process import Worker

    try:
        return Worker(DeviceRequest(device="cuda"))
    except DeviceError as error:
        raise DeviceError(str(error), hint="`bsprobe gpus` lists the known cards") from error


def print_this(worker: Worker) -> None:
    """Measure the GPU of a worker and print its line for `gpus.csv`.

    Prints the comparison with the catalogue on standard error.

    Raises:
        DeviceError: A small training step failed.
    """
    device, outside_bytes = cleaned(worker.ready.device), _outside_bytes(worker)
    try:
        known: Gpu | None = find_gpu(device.name)
    except UsageError:
        known = None
    name = known.name if known else device.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
    now = (
        f"{format_bytes(device.total_bytes)} in total, {format_bytes(outside_bytes)} outside "
        "PyTorch's allocator during training"
    )
    show_on_stderr(f"{device.name}, driver {device.driver or 'unknown'}: {now}.")
    if known is None:
        show_on_stderr("It is not in the catalogue.")
    else:
        show_on_stderr(
            f"In the catalogue, {name} has {format_bytes(known.total_bytes)} and "
            f"{format_bytes(known.outside_allocator_bytes)}."
        )
    for note in device.notes:
        show_on_stderr(f"Note  {note}")
    show_on_stderr("Its line for bsprobe/records/gpus.csv:")
    line = {
        "name": name,
        "compute_capability": device.compute_capability,
        "total_mib": device.total_bytes // MIB,
        "total_source": f"bsprobe gpus --this: driver {device.driver or 'unknown'}",
        "outside_mib": round(outside_bytes / MIB),
        "outside_source": f"bsprobe gpus --this: PyTorch {worker.ready.torch}, "
        f"CUDA {worker.ready.cuda}",
    }
    show(_csv_text([[line.get(column, "") for column in COLUMNS]]).removesuffix("\n"))


def _outside_bytes(worker: Worker) -> int:
    """Bytes outside the allocator in a real training step, with all libraries loaded."""
    from bsprobe.records.failures import RAN
    from bsprobe.records.trials import TrialSpec
    from bsprobe.records.units import Resolution
    from bsprobe.records.variants import Precision, Variant

    variant = Variant(
        model="deeplabv2-resnet50",
        resolution=Resolution(height=128, width=256),
        precision=Precision.AMP_FP16,
    )
    done = worker.run(
        TrialSpec(variant=variant, batch_size=2),
        timeout=_TRIAL_TIMEOUT_SECONDS,
        on_phase=lambda _: None,
    )
    if done.outcome not in RAN or done.measurement is None:
        why = done.failure.message if done.failure else done.outcome.value
        raise DeviceError(
            f"a small training step failed on {worker.ready.device.name}: {why}",
            hint="look for other processes that use its memory: nvidia-smi",
        )
    return done.measurement.outside_allocator_bytes


def _table(cards: Iterable[Gpu]) -> str:
    from bsprobe.report.run.terminal import aligned

    rows = [
        (
            card.name,
            card.compute_capability,
            format_bytes(card.total_bytes),
            format_bytes(card.outside_allocator_bytes),
            format_bytes(card.allocator_bytes),
            _provenance(card),
        )
        for card in cards
    ]
    return aligned([_HEADINGS, *rows])


def _provenance(card: Gpu) -> str:
    if card.total_source == ESTIMATE:
        return "estimated"
    return "outside est." if card.outside_source == ESTIMATE else "reported"


def _as_csv(cards: Iterable[Gpu]) -> str:
    fields = [field.name for field in dataclasses.fields(Gpu)]
    return _csv_text([fields, *([getattr(card, field) for field in fields] for card in cards)])


def _csv_text(rows: Iterable[Iterable[object]]) -> str:
    out = io.StringIO()
    cells = (map(csv_cell, row) for row in rows)
    csv.writer(out, lineterminator="\n").writerows(cells)
    return out.getvalue()
