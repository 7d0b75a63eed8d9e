"""A picture of one sample of a data set: the image, its label ids and its train ids, in colour."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bsprobe.records.errors import FileError
from bsprobe.records.printable import single_line
from bsprobe.storage.files import written_whole
from bsprobe.training.cityscapes.labels import (
    CLASSES,
    IGNORED_TRAIN_ID,
    LABELS,
    Label,
    colours_by_label_id,
    colours_by_train_id,
    to_train_ids,
)
from bsprobe.training.cityscapes.samples import Problem, Sample, load_pair

_WIDTH_INCHES = 15.0
_DOTS_PER_INCH = 120
_HIGHEST_PANEL_INCHES = 8.0
"""Higher images are drawn narrower."""
_LEGEND_INCHES = 0.95
_TITLE_INCHES = 0.35
_LEGEND_COLUMNS = 8


def write_picture(sample: Sample, path: Path) -> None:
    """Write an image, its label ids and its train ids side by side, with a legend, as PNG.

    Args:
        sample: A labelled sample.
        path: The file to write; an existing one is replaced.

    Raises:
        FileError: The sample cannot be read, or the picture cannot be written.
    """
    pair = load_pair(sample)
    if isinstance(pair, Problem):
        raise pair.as_error()
    figure = draw_picture(*pair, title=single_line(sample.stem))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            figure.savefig(file, format="png", dpi=_DOTS_PER_INCH)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileError(
            f"the picture {path} cannot be written: {reason}",
            hint="give another path with --picture PATH",
        ) from error


def draw_picture(image: NDArray[np.uint8], label: NDArray[np.uint8], *, title: str) -> Figure:
    """Draw the image, its label ids and its train ids, and a legend of the labels in them.

    Args:
        image: HxWx3, red, green, blue.
        label: HxW label ids.
        title: The title of the first panel; the size of the image is added.
    """
    height, width = label.shape
    panel_inches = min(_WIDTH_INCHES / 3 * height / width, _HIGHEST_PANEL_INCHES)
    total_inches = panel_inches + _LEGEND_INCHES + _TITLE_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, total_inches))
    FigureCanvasAgg(figure)
    train_ids = to_train_ids(label)
    panels = (
        (f"{title}, {height} high x {width} wide", image),
        ("label ids, as in the file", colours_by_label_id()[label]),
        ("train ids, as in training (black is ignored)", colours_by_train_id()[train_ids]),
    )
    for place, (caption, picture) in enumerate(panels):
        left = place / 3 + 0.002
        bottom = _LEGEND_INCHES / total_inches
        axes = figure.add_axes((left, bottom, 1 / 3 - 0.004, panel_inches / total_inches))
        axes.imshow(picture, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(caption, fontsize=10, parse_math=False)
    figure.legend(
        handles=_legend(label, train_ids),
        loc="lower center",
        ncols=_LEGEND_COLUMNS,
        fontsize=9,
        frameon=False,
    )
    return figure


def _legend(label: NDArray[np.uint8], train_ids: NDArray[np.uint8]) -> list[Patch]:
    """The classes that occur, by train id, then the ignored labels that occur."""
    classes = [
        _patch(one, f"{one.train_id}: {one.name} ({one.label_id})")
        for one in CLASSES
        if (train_ids == one.train_id).any()
    ]
    ignored = [
        _patch(one, f"ignored: {one.name} ({one.label_id})")
        for one in LABELS
        if one.train_id == IGNORED_TRAIN_ID and (label == one.label_id).any()
    ]
    return classes + ignored


def _patch(label: Label, text: str) -> Patch:
    red, green, blue = label.colour
    colour = (red / 255, green / 255, blue / 255)
    return Patch(facecolor=colour, edgecolor="0.6", linewidth=0.5, label=text)
