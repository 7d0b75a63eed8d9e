"""Metrics of a comparison, and the thresholds beyond which they regress."""

import math
import re
from dataclasses import dataclass
from enum import StrEnum

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
from bsprobe.records.units import format_bytes, parse_bytes
from bsprobe.records.variants import unknown_value


class Metric(StrEnum):
    """The metrics that are compared."""

    MAX_BATCH = "max-batch"
    """The largest batch that runs."""
    SAFE_BATCH = "safe-batch"
    """The largest batch that leaves the headroom free."""
    PEAK = "peak"
    """Peak memory of a trial: reserved (else allocated), and outside PyTorch."""
    PEAK_ALLOCATED = "peak-allocated"
    PEAK_RESERVED = "peak-reserved"
    """Includes PyTorch's cache; not on the CPU, which has none."""
    MEMORY_PER_IMAGE = "memory-per-image"
    """Allocated bytes per image: the slope from the smallest to the largest batch."""
    THROUGHPUT = "throughput"
    """Images per second; not for predictions."""


BATCHES = frozenset({Metric.MAX_BATCH, Metric.SAFE_BATCH})
MORE_IS_BETTER = BATCHES | {Metric.THROUGHPUT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The worsening of a metric beyond which it is a regression.

    Exactly one of the two amounts is set.
    """

    metric: Metric
    share: float | None = None
    """Share of the baseline's figure."""
    absolute: float | None = None
    """Bytes, images (of a batch) or images per second."""

    def allowed(self, baseline: float) -> float:
        """Return the worsening of a baseline's figure that still passes, in the metric's unit."""
        if self.share is not None:
            return abs(baseline) * self.share
        assert self.absolute is not None  # noqa: S101 - one of the two is set
        return self.absolute

    def describe(self) -> str:
        """Return the amount as text: `3%`, `200 MiB`, `1`."""
        if self.share is not None:
            return f"{self.share * 100:g}%"
        assert self.absolute is not None  # noqa: S101 - one of the two is set
        if not self.absolute or self.metric in MORE_IS_BETTER:
            return f"{self.absolute:g}"
        return format_bytes(self.absolute)


DEFAULT_THRESHOLDS = (
    Threshold(metric=Metric.MAX_BATCH, absolute=0),
    Threshold(metric=Metric.PEAK, share=0.03),
)
"""By default no image less, and a peak that stays within the default headroom of 5 %."""


def parse_threshold(text: str) -> Threshold:
    """Parse `METRIC:AMOUNT`: `peak:3%`, `peak-reserved:200MiB`, `max-batch:0`.

    Raises:
        UsageError: The metric is unknown, or the amount is invalid for it.
    """
    name, colon, amount = (part.strip() for part in text.partition(":"))
    if name not in {str(metric) for metric in Metric}:
        raise unknown_value("--fail-on", name, [str(metric) for metric in Metric])
    metric = Metric(name)
    if not colon or not amount:
        raise UsageError(f"--fail-on: '{text}' names no amount", hint=f"for example {name}:3%")
    if share := re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", amount):
        return Threshold(metric=metric, share=_within("share", text, float(share[1]) / 100))
    if metric in MORE_IS_BETTER:
        return Threshold(metric=metric, absolute=_within("absolute", text, _number(amount)))
    if re.fullmatch(r"0+(\.0*)?\s*[A-Za-z]*", amount):
        return Threshold(metric=metric, absolute=0)
    if amount[-1].isdigit():  # 3 means 3 bytes, but 3 % was probably meant
        raise UsageError(
            f"--fail-on: '{text}' lacks a unit", hint=f"write {text}% or {name}:{amount}MiB"
        )
    return Threshold(metric=metric, absolute=parse_bytes(amount))


def require_distinct(thresholds: tuple[Threshold, ...]) -> None:
    """Reject two thresholds on one metric.

    Raises:
        UsageError: A metric is named twice.
    """
    metrics = [threshold.metric for threshold in thresholds]
    for metric in Metric:
        if metrics.count(metric) > 1:
            raise UsageError(f"--fail-on names {metric} twice", hint="keep the stricter one")


def _number(amount: str) -> float:
    try:
        return float(amount)
    except ValueError:
        return math.nan


def _within(field: str, text: str, number: float) -> float:
    """Return a number if it is within the bounds of a field of `Threshold`."""
    if number not in ASKED[field]:
        raise UsageError(
            f"--fail-on: '{text}' names no amount of that metric",
            hint=f"write a share or a number from 0 up, for example 3% or 1; at most "
            f"{ASKED['share'].most:.0%}, {ASKED['absolute'].most}",
        )
    return number
