"""Runs are comparable only if all other facts are equal."""

from dataclasses import replace
from typing import Any

import pytest

from bsprobe.analysis.comparability import differences, require_comparable
from bsprobe.analysis.thresholds import Metric
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import NotComparableError
from bsprobe.records.runs import Run, SearchMethod
from bsprobe.records.trials import DataSource, Ddp, Source
from bsprobe.records.units import GIB, MIB, Resolution
from tests.support.builders import VARIANT, probed_run, settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return probed_run(tmp_path_factory.mktemp("run"), settings(VARIANT))


def other(run: Run, **changes: Any) -> Run:
    """Return a run with fields of its parts replaced: `device_name=` …"""
    for key, value in changes.items():
        part, _, field = key.partition("_")
        run = replace(run, **{part: replace(getattr(run, part), **{field: value})})
    return run


@pytest.mark.parametrize(
    ("changes", "metric", "complaint"),
    [
        (
            {"device_source": Source.PREDICTED},
            Metric.PEAK,
            "the source of the baseline is measured, of the run predicted",
        ),
        (
            {"device_name": "NVIDIA A100"},
            Metric.PEAK,
            "the device of the baseline is NVIDIA GeForce RTX 4090, of the run NVIDIA A100",
        ),
        (
            {"environment_torch": "2.7.0+cu124"},
            Metric.PEAK,
            "the torch version of the baseline is 2.6, of the run 2.7",
        ),
        (
            {"device_capacity_bytes": 20 * GIB - 1, "device_limit_bytes": 20 * GIB - 1},
            Metric.MAX_BATCH,
            (
                "the memory of the baseline is 21474836480 bytes (20.0 GiB), "
                "of the run 21474836479 bytes (20.0 GiB)"
            ),
        ),
        (
            {"settings_data": DataSource(root="/images")},
            Metric.PEAK,
            "the images of the baseline is synthetic, of the run real",
        ),
        (
            {"settings_ddp": Ddp.STATIC_GRAPH},
            Metric.PEAK,
            (
                "the setting of DistributedDataParallel of the baseline is default, of the run "
                "static-graph"
            ),
        ),
        (
            {"settings_evaluation_resolution": Resolution(height=64, width=128)},
            Metric.PEAK,
            "the evaluation pass of older versions of the baseline is None, of the run 64x128",
        ),
    ],
)
def test_what_must_be_equal_is_named_with_both_values(
    run: Run, changes: dict[str, Any], metric: Metric, complaint: str
) -> None:
    require_comparable(run, run, [metric])
    with pytest.raises(NotComparableError) as refused:
        require_comparable(run, other(run, **changes), [metric])
    assert str(refused.value) == f"not comparable: {complaint}"
    assert refused.value.hint is not None
    assert refused.value.exit_code == 2


def test_the_headroom_counts_for_the_safe_batch_alone(run: Run) -> None:
    target = replace(run.settings.target, headroom=0.1)
    require_comparable(run, other(run, settings_target=target), [Metric.MAX_BATCH])
    with pytest.raises(NotComparableError, match=r"--headroom of the baseline is 0\.05"):
        require_comparable(run, other(run, settings_target=target), [Metric.SAFE_BATCH])


def test_the_capacity_does_not_count_for_memory_at_equal_batches(run: Run) -> None:
    smaller = other(run, device_capacity_bytes=10 * GIB)
    require_comparable(run, smaller, [Metric.PEAK, Metric.THROUGHPUT, Metric.MEMORY_PER_IMAGE])


def test_a_few_mib_of_other_processes_are_said_and_more_is_refused(run: Run) -> None:
    free = other(run, device_limit_bytes=None)
    closer = other(free, device_capacity_bytes=20 * GIB - 64 * MIB + 1)
    require_comparable(free, closer, list(Metric))
    assert differences(free, closer) == (
        (
            "the usable memory differs: 21474836480 bytes (20.0 GiB) in the baseline, "
            "21407727617 bytes (19.9 GiB) in the run."
        ),
    )
    for changes in ({"device_capacity_bytes": 20 * GIB - 64 * MIB}, {"device_limit_bytes": GIB}):
        with pytest.raises(NotComparableError, match="the memory"):
            require_comparable(free, other(closer, **changes), [Metric.MAX_BATCH])
    assert differences(free, other(free, device_capacity_bytes=10 * GIB)) == ()


def test_the_threads_count_for_the_cpus_throughput_alone(run: Run) -> None:
    one, two = (
        other(run, device_kind=DeviceKind.CPU, environment_cpu_threads=threads)
        for threads in (1, 2)
    )
    require_comparable(one, two, [Metric.PEAK])
    gpu = other(run, environment_cpu_threads=2)
    require_comparable(run, gpu, [Metric.THROUGHPUT])
    with pytest.raises(NotComparableError, match="the number of threads of the baseline is 1"):
        require_comparable(one, two, [Metric.THROUGHPUT])


def test_what_may_differ_is_said(run: Run) -> None:
    assert differences(run, run) == ()
    changed = other(
        run,
        environment_torch="2.6.1+cu126",
        environment_cuda="12.6",
        environment_cuda_alloc_conf=None,
        device_driver="580.1",
        settings_search=SearchMethod.GUIDED,
    )
    assert differences(run, changed) == (
        "PyTorch differs: 2.6.0+cu124 in the baseline, 2.6.1+cu126 in the run.",
        "CUDA differs: 12.4 in the baseline, 12.6 in the run.",
        "the driver differs: 570.86.10 in the baseline, 580.1 in the run.",
        (
            "PYTORCH_CUDA_ALLOC_CONF differs: expandable_segments:True in the baseline, "
            "not set in the run."
        ),
        "the search differs: ordinary in the baseline, guided in the run.",
    )
    require_comparable(run, changed, list(Metric))
