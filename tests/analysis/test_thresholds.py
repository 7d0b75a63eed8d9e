"""Thresholds as they are typed on the command line."""

import pytest

from bsprobe.analysis.thresholds import Metric, Threshold, parse_threshold, require_distinct
from bsprobe.records.errors import UsageError
from bsprobe.records.units import GIB, MIB


@pytest.mark.parametrize(
    ("text", "threshold", "shown"),
    [
        ("peak:3%", Threshold(metric=Metric.PEAK, share=0.03), "3%"),
        ("peak : 0.5 %", Threshold(metric=Metric.PEAK, share=0.005), "0.5%"),
        (
            "peak-reserved:200MiB",
            Threshold(metric=Metric.PEAK_RESERVED, absolute=200 * MIB),
            "200 MiB",
        ),
        (
            "memory-per-image:1.5 GiB",
            Threshold(metric=Metric.MEMORY_PER_IMAGE, absolute=1.5 * GIB),
            "1.50 GiB",
        ),
        ("peak-allocated:0", Threshold(metric=Metric.PEAK_ALLOCATED, absolute=0), "0"),
        ("peak:0MiB", Threshold(metric=Metric.PEAK, absolute=0), "0"),
        ("max-batch:0", Threshold(metric=Metric.MAX_BATCH, absolute=0), "0"),
        ("max-batch:2", Threshold(metric=Metric.MAX_BATCH, absolute=2), "2"),
        ("safe-batch:10%", Threshold(metric=Metric.SAFE_BATCH, share=0.1), "10%"),
        ("throughput:1.5", Threshold(metric=Metric.THROUGHPUT, absolute=1.5), "1.5"),
    ],
)
def test_a_threshold_is_a_share_or_an_amount_in_the_metrics_own_unit(
    text: str, threshold: Threshold, shown: str
) -> None:
    assert parse_threshold(text) == threshold
    assert threshold.describe() == shown


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "--fail-on: '' is unknown"),
        ("peek:3%", "--fail-on: 'peek' is unknown"),
        ("peak", "--fail-on: 'peak' names no amount"),
        ("peak:", "--fail-on: 'peak:' names no amount"),
        ("peak:3", "--fail-on: 'peak:3' lacks a unit"),
        ("peak:-3%", "'-3%' is not an amount of memory"),
        ("peak:1e3%", "'1e3%' is not an amount of memory"),
        ("peak:nan", "'nan' is not an amount of memory"),
        ("max-batch:1GiB", "--fail-on: 'max-batch:1GiB' names no amount of that metric"),
        ("max-batch:-1", "--fail-on: 'max-batch:-1' names no amount of that metric"),
        ("throughput:inf", "--fail-on: 'throughput:inf' names no amount of that metric"),
        ("throughput:nan", "--fail-on: 'throughput:nan' names no amount of that metric"),
    ],
)
def test_what_is_no_threshold_is_refused_with_a_hint(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_threshold(text)
    assert str(refused.value) == complaint
    assert refused.value.hint is not None


def test_two_thresholds_on_one_metric_are_refused() -> None:
    one, two = parse_threshold("peak:3%"), parse_threshold("peak:1GiB")
    require_distinct((one, parse_threshold("max-batch:0")))
    with pytest.raises(UsageError, match="--fail-on names peak twice"):
        require_distinct((one, two))


def test_a_share_is_of_the_baseline_and_an_amount_is_itself() -> None:
    assert parse_threshold("peak:25%").allowed(8 * GIB) == 2 * GIB
    assert parse_threshold("peak:3MiB").allowed(8 * GIB) == 3 * MIB
    assert parse_threshold("throughput:10%").allowed(20.0) == pytest.approx(2.0)
