"""The least and the greatest of every number that may be asked for, or stand in a file.

Options, the library and files read the same tables, so that nothing is accepted first and refused
later: whatever follows from numbers that may be asked for is finite, and files take it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The least and the greatest number that something may be."""

    least: float
    most: float
    least_is_open: bool = False
    """True where the least itself is out of range."""
    most_is_open: bool = False
    """True where the greatest itself is out of range."""

    def __contains__(self, number: float) -> bool:
        """True for a number within the bounds; never for NaN."""
        above = number > self.least if self.least_is_open else number >= self.least
        below = number < self.most if self.most_is_open else number <= self.most
        return above and below

    def __str__(self) -> str:
        """The bounds for people: `1 to 1048576`, `1e-06 to less than 1`."""
        least = f"more than {_text(self.least)}" if self.least_is_open else _text(self.least)
        most = f"less than {_text(self.most)}" if self.most_is_open else _text(self.most)
        return f"{least} to {most}"


def _text(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


_BATCH = Bounds(least=1, most=2**20)
"""A million images fit nowhere, and a product with the processes is exact as a float."""
_SECONDS = Bounds(least=1e-3, most=1e9)
"""From a millisecond to 32 years; a lock of Python waits 292 years at most."""
_SIDE = Bounds(least=32, most=32768)
"""Of an image, in pixels: a network that reduces by 32 (ResNets without dilation) has nothing left
below; the largest has 2**30 pixels."""
_MEMORY = Bounds(least=1, most=2**50)
"""In bytes. No machine has a PiB, and every number of bytes below 2**53 is exact as a float."""

ASKED: Final[Mapping[str, Bounds]] = MappingProxyType(
    {
        # Batches, in images.
        "batch": _BATCH,
        "base_batch": _BATCH,
        "batches": _BATCH,
        "batch_size": _BATCH,
        "max_batch": _BATCH,
        "micro_batch": _BATCH,
        "wanted_batch": _BATCH,
        # Recipes. Adam's rates are about 1e-3; the rest is room for experiments that diverge.
        "base_learning_rate": Bounds(least=1e-12, most=1e6),
        "base_updates": Bounds(least=1, most=10**9),
        # A millionth of 80 GB is 80 KB, less than one block of PyTorch's allocator.
        "headroom": Bounds(least=1e-6, most=1, most_is_open=True),
        # Trials and trainings. The median of fewer than three steps says little.
        "measured_steps": Bounds(least=3, most=1000),
        "warmup_steps": Bounds(least=1, most=1000),
        "trial_timeout_seconds": _SECONDS,
        "time_limit_seconds": _SECONDS,
        "training_timeout_seconds": _SECONDS,
        # The initial state of PyTorch's generators is 32 bits wide; seeds that follow are larger.
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
        # Multiples of the first group's learning rate, in an optimizer of the user's own.
        "groups": Bounds(least=0, most=1e6),
        # Memory, in bytes. A custom card of a TiB is a slip in the unit: the largest of the
        # catalogue has 0.17 TiB.
        "memory_limit_bytes": _MEMORY,
        "rank_limits_bytes": _MEMORY,
        "total_bytes": Bounds(least=1, most=2**40, most_is_open=True),
        # Thresholds of a comparison: shares, and bytes, images or images per second.
        "share": Bounds(least=0, most=10**4),
        "absolute": Bounds(least=0, most=2**50),
        # Reports, and data that is drawn: the names of images have six digits.
        "depth": Bounds(least=1, most=20),
        "sample_images": Bounds(least=1, most=999_999),
    }
)
"""Numbers that may be asked for, by the names of the fields that hold them."""

FIGURE: Final = Bounds(least=0, most=2**63 - 1)
"""Any other number of a file: no count of bytes is larger, and integers far beyond it cannot be
divided as floats."""
_FROM_ONE = Bounds(least=1, most=FIGURE.most)
_ABOVE_ZERO = Bounds(least=0, most=FIGURE.most, least_is_open=True)

HELD: Final[Mapping[str, Bounds]] = MappingProxyType(
    dict.fromkeys(
        (
            "accumulation_steps", "base_batch", "base_updates", "batch", "batch_size", "best",
            "capacity_bytes", "channels", "classes", "cpu_threads", "effective_batch",
            "first_failure", "height", "largest", "max_batch", "measured_steps", "micro_batch",
            "parameters", "processes", "safe", "slices", "steps", "total_bytes", "updates", "width",
        ),
        _FROM_ONE,
    )
    | dict.fromkeys(("base_learning_rate", "images_per_second", "step_seconds"), _ABOVE_ZERO)
    | {
        "headroom": Bounds(least=0, most=1, least_is_open=True, most_is_open=True),
        # 1e6, scaled from a batch of 1 to one of 2**20 images on each of 2**16 processes.
        "learning_rate": Bounds(least=0, most=1e18, least_is_open=True),
        # That, a million times.
        "group_learning_rates": Bounds(least=0, most=1e24),
    }
)  # fmt: skip
"""Numbers that a file may hold, by the names of their fields, where `FIGURE` is not enough. They
are wider than what may be asked for: files hold what follows from it as well."""
