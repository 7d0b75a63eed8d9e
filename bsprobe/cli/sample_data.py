"""`bsprobe sample-data`: draw a small data set in the layout of Cityscapes."""

import itertools
from pathlib import Path

import click

from bsprobe.cli.command import Command
from bsprobe.cli.options.paths import PATH
from bsprobe.cli.options.values import count
from bsprobe.cli.printing import show
from bsprobe.records.printable import shell_word


@click.command("sample-data", cls=Command)
@click.argument("folder", metavar="DIR", type=PATH)
@count(
    "--images",
    "sample_images",
    "Number of images; every fifth is for validation.",
    default=40,
)
@click.option(
    "--size",
    default="256x512",
    show_default=True,
    metavar="HxW",
    help="Size of each image, in pixels.",
)
@count("--seed", "seed", "Seed; equal seeds draw equal images.", default=0)
def sample_data(folder: Path, images: int, size: str, seed: int) -> None:
    """Draw a small data set with labels, for trying things out.

    Writes street scenes into the new folder DIR, with the folders, file names and label ids of
    Cityscapes. An accuracy on them says nothing about Cityscapes.

    Args:
        folder: New folder.
        images: Number of images.
        size: Height and width in pixels, as typed.
        seed: Seed of the drawing.
    """
    # Imported here because numpy and Pillow would slow `bsprobe --help` down.
    from rich.console import Console

    from bsprobe.records.units import parse_resolution
    from bsprobe.report.progress import Progress
    from bsprobe.training.cityscapes.samples import Split
    from bsprobe.training.cityscapes.synthetic import plan_scenes, write_sample_data

    resolution = parse_resolution(size)
    progress = Progress(Console(stderr=True))
    drawn = itertools.count(1)
    with progress.shown():
        progress.begin(f"drawing {images} images")
        write_sample_data(
            folder,
            count=images,
            size=resolution,
            seed=seed,
            on_written=lambda _: progress.begin(f"drew {next(drawn)} of {images}"),
        )
    of_split = [scene.split for scene in plan_scenes(images)]
    show(
        f"Drew {images} images, {resolution.describe()}: "
        f"{of_split.count(Split.TRAIN)} train, {of_split.count(Split.VAL)} val."
    )
    show(f"Next: bsprobe data {shell_word(str(folder))}")
