"""The part of `bsprobe gpus` that asks which card is enough: `--fit`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bsprobe.records.variants import Variant
    from bsprobe.report.fit import Fitting


def fit(variants: tuple[Variant, ...], batch: int | None, out: Path | None, command: str) -> None:
    """Predict for every card of the catalogue, print the table and write the report."""
    from bsprobe.report.fit import render_text, write_fitting
    from bsprobe.storage.folders import given_folder, new_folder, slug

    if out is not None:
        given_folder(out)
    found = _fitting(variants, batch, command)
    parts = ["gpus-fit", *dict.fromkeys(variant.model for variant in variants)]
    parts += dict.fromkeys(variant.inputs for variant in variants)
    folder = out or new_folder(Path("reports"), slug("-".join(parts)))
    click.echo(render_text(found))
    write_fitting(found, folder)
    click.echo(f"\nWrote {folder}/   Next: bsprobe run --gpu NAME")


def _fitting(variants: tuple[Variant, ...], batch: int | None, command: str) -> Fitting:
    from rich.console import Console
    from rich.progress import Progress

    from bsprobe.records.gpus import catalogue
    from bsprobe.records.runs import MAX_BATCH, DeviceRequest
    from bsprobe.report.fit import Fitting
    from bsprobe.worker.environment import describe_environment
    from bsprobe.worker.process import Worker

    cards = catalogue()
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("opening", total=len(cards) * len(variants))
        worker = Worker(DeviceRequest(gpu=cards[0]), variants=variants)
        with closing(worker):
            found = []
            for each in worker.fit(variants, cards, max_batch=max(MAX_BATCH, batch or 0)):
                found.append(each)
                progress.update(bar, advance=1, description=each.gpu.name)
    environment = describe_environment(worker.ready, command)
    return Fitting(environment=environment, wanted_batch=batch, fits=tuple(found))
