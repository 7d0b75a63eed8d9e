"""Compare the label lookup with the usual loop over a dictionary.

    python benchmarks/label_lookup.py

Each variant maps the same 1024x2048 label image, drawn as by `bsprobe sample-data`, to train ids.
The loop does one comparison and one masked assignment for each of the 34 label ids; it is measured
on the three types that published training codes convert the label to first. The lookup works on
the bytes as they are in the file. Rounds alternate between the variants, so that other load on the
machine slows all of them alike.
"""

from __future__ import annotations

import statistics
import timeit
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bsprobe.records.units import Resolution
from bsprobe.training.cityscapes.labels import LABELS, to_train_ids
from bsprobe.training.cityscapes.synthetic import draw_scene

if TYPE_CHECKING:
    from collections.abc import Callable

Image = Any
"""A numpy array or a torch tensor."""
_ROUNDS = 15
_MAPPING = {label.label_id: label.train_id for label in LABELS}


def loop(label: Image, full_like: Callable[[Image, int], Image]) -> Image:
    """Map ids one by one, with numpy or torch."""
    out = full_like(label, 255)
    for label_id, train_id in _MAPPING.items():
        out[label == label_id] = train_id
    return out


def main() -> None:
    """Print the median time of each variant and its ratio to the lookup."""
    _, label = draw_scene(0, size=Resolution(height=1024, width=2048), seed=0)
    wide, tensor = label.astype(np.int64), torch.from_numpy(label).long()
    ways: dict[str, Callable[[], object]] = {
        "lookup table": lambda: to_train_ids(label),
        "loop, numpy uint8": lambda: loop(label, np.full_like),
        "loop, numpy int64": lambda: loop(wide, np.full_like),
        "loop, torch int64": lambda: loop(tensor, torch.full_like),
    }
    np.testing.assert_array_equal(to_train_ids(label), loop(label, np.full_like))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            seconds[name].append(timeit.timeit(way, number=1))
    lookup = statistics.median(seconds["lookup table"])
    for name, measured in seconds.items():
        median = statistics.median(measured)
        print(f"{name:<20} {median * 1e3:8.2f} ms {median / lookup:8.1f} x")


if __name__ == "__main__":
    main()
