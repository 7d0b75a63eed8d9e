"""Bounds of the numbers in options, API arguments and files.

All of them use the same tables, so that every number that follows from accepted options is finite
and is accepted in a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The range of numbers that a field accepts."""

    least: float
    most: float
    least_is_open: bool = False
    """True if `least` itself is out of range."""
    most_is_open: bool = False
    """True if `most` itself is out of range."""

    def __contains__(self, number: float) -> bool:
        """Return whether a number is within the bounds; NaN never is."""
        above = number > self.least if self.least_is_open else number >= self.least
        below = number < self.most if self.most_is_open else number <= self.most
        return above and below

    def __str__(self) -> str:
        """Format the bounds for messages: `1 to 1048576`, `1e-06 to less than 1`."""
        least = f"more than {_text(self.least)}" if self.least_is_open else _text(self.least)
        most = f"less than {_text(self.most)}" if self.most_is_open else _text(self.most)
        return f"{least} to {most}"


def _text(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


_BATCH = Bounds(least=1, most=2**20)
"""In images. A million images fit no GPU, and the batch times the processes is exact as a float."""
_SECONDS = Bounds(least=1e-3, most=1e9)
"""From a millisecond to 32 years; Python's locks accept timeouts of up to 292 years."""
_SIDE = Bounds(least=32, most=32768)
"""In pixels. A network that reduces by 32 (ResNets without dilation) has no output for smaller
images; the largest image has 2**30 pixels."""
_MEMORY = Bounds(least=1, most=2**50)
"""In bytes. No machine has a PiB, and every number of bytes below 2**53 is exact as a float."""

ASKED: Final[Mapping[str, Bounds]] = MappingProxyType(
    {
        # Batches, in images.
        "batch": _BATCH,
        "base_batch": _BATCH,
        "batches": _BATCH,
        "batch_size": _BATCH,
        # Batches to draw, of one image each.
        "batches_seen": Bounds(least=1, most=1000),
        "batch_multiple": Bounds(least=1, most=2**16),
        "max_batch": _BATCH,
        "micro_batch": _BATCH,
        "wanted_batch": _BATCH,
        # Recipes. Adam's rates are about 1e-3; the range leaves room for runs that diverge.
        "base_learning_rate": Bounds(least=1e-12, most=1e6),
        "base_updates": Bounds(least=1, most=10**9),
        # A millionth of 80 GB is 80 KB, less than one block of PyTorch's allocator.
        "headroom": Bounds(least=1e-6, most=1, most_is_open=True),
        # Trials and trainings. The median of fewer than three steps is unreliable.
        "measured_steps": Bounds(least=3, most=1000),
        "warmup_steps": Bounds(least=1, most=1000),
        "trial_timeout_seconds": _SECONDS,
        "time_limit_seconds": _SECONDS,
        "seconds": _SECONDS,
        "training_timeout_seconds": _SECONDS,
        # PyTorch's generators are initialised from 32 bits, and derived seeds are larger.
        "seed": Bounds(least=0, most=2**31 - 1),
        "seed_count": Bounds(least=1, most=100),
        "images": Bounds(least=1, most=10**9),
        "images_seen": Bounds(least=1, most=2 * 10**9),
        "subset": Bounds(least=1, most=10**9),
        "validations": Bounds(least=2, most=1000),
        "workers": Bounds(least=0, most=1024),
        # Frontier, the largest machine that trained as one, has 2**15.2 GPUs.
        "processes": Bounds(least=1, most=2**16),
        # Networks and images. ImageNet-21k has 21841 classes.
        "classes": Bounds(least=1, most=2**20),
        "channels": Bounds(least=1, most=4096),
        "height": _SIDE,
        "slices": Bounds(least=1, most=32768),
        "width": _SIDE,
        # Multiples of the first group's learning rate, in a user-supplied optimizer.
        "groups": Bounds(least=0, most=1e6),
        # Memory, in bytes. A TiB for a custom card is a wrong unit: the largest card of the
        # catalogue has 0.17 TiB.
        "memory_limit_bytes": _MEMORY,
        "rank_limits_bytes": _MEMORY,
        "total_bytes": Bounds(least=1, most=2**40, most_is_open=True),
        # Thresholds of a comparison: shares, and bytes, images or images per second.
        "share": Bounds(least=0, most=10**4),
        "absolute": Bounds(least=0, most=2**50),
        # Reports and synthetic images, whose file names have six digits.
        "depth": Bounds(least=1, most=20),
        "sample_images": Bounds(least=1, most=999_999),
    }
)
"""Bounds of options and API arguments, by field name."""

FIGURE: Final = Bounds(least=0, most=2**63 - 1)
"""Bounds of any other number in a file. No count of bytes is larger, and much larger integers
cannot be divided as floats."""
_FROM_ONE = Bounds(least=1, most=FIGURE.most)
_SHARE = Bounds(least=0, most=1)
_ABOVE_ZERO = Bounds(least=0, most=FIGURE.most, least_is_open=True)

HELD: Final[Mapping[str, Bounds]] = MappingProxyType(
    dict.fromkeys(
        (
            "accumulation_steps", "base_batch", "base_updates", "batch", "batch_multiple",
            "capacity_bytes", "channels", "classes", "cpu_threads", "effective_batch", "height",
            "measured_steps", "processes", "ranks", "slices", "total_bytes", "width",
        ),
        _FROM_ONE,
    )
    | dict.fromkeys(
        (
            "batch_size", "best", "first_failure", "largest", "max_batch", "micro_batch", "safe",
        ),
        # Twice the largest option; results are computed again for every batch below.
        Bounds(least=1, most=2**21),
    )
    | dict.fromkeys(("class_iou", "mean_iou", "pixel_accuracy"), _SHARE)
    | dict.fromkeys(
        (
            "alone_images_per_second", "base_learning_rate", "fed_images_per_second",
            "images_per_second", "loader_images_per_second", "step_images_per_second",
            "step_seconds",
        ),
        _ABOVE_ZERO,
    )
    | {
        "headroom": Bounds(least=0, most=1, least_is_open=True, most_is_open=True),
        # The largest base rate, scaled from a batch of 1 to 2**20 images on each of 2**16
        # processes.
        "learning_rate": Bounds(least=0, most=1e18, least_is_open=True),
        # The largest learning rate times the largest multiple of a group.
        "group_learning_rates": Bounds(least=0, most=1e24),
    }
)  # fmt: skip
"""Bounds of numbers in a file, by field name; `FIGURE` applies to all other fields. They are wider
than `ASKED`, because files also hold numbers that are computed from the options."""
