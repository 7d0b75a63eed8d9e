"""Explanations of simulated steps add up, and agree with simulated trials."""

import bisect
import functools
import itertools
import operator
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.cuda import _memory_viz

from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.explanations import (
    NOT_ATTRIBUTED,
    Explanation,
    Row,
    by_kind,
    by_module,
    by_operator,
)
from bsprobe.records.gpus import custom_gpu
from bsprobe.records.matrix import matrix
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import (
    AXES,
    Checkpointing,
    CudnnBenchmark,
    LossAt,
    MemoryFormat,
    Norm,
    Precision,
    Variant,
)
from bsprobe.report.explain.plots import KIND_COLOURS
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError
from bsprobe.simulate.playback import Playback, cublas_workspace_bytes
from bsprobe.simulate.timeline import Kind
from bsprobe.training.models.norms import LAYERS
from tests.support.pairwise import pairwise

SIZE = Resolution(height=64, width=128)
SMALL = Variant(model="deeplabv2-resnet50", resolution=SIZE)
MINI = Variant(model="deeplabv2-mini", resolution=Resolution(height=32, width=64))
CARD = custom_gpu(2 * GIB, "8.6", 300 * MIB)
DEFAULTS = matrix(models=(SMALL.model,), resolutions=(SIZE,), choices={})
OTHERS = [
    replace(MINI, precision=Precision.AMP_FP16, norm=Norm.GROUP_AMP),
    replace(MINI, checkpointing=Checkpointing.ON, norm=Norm.FROZEN),
    replace(MINI, memory_format=MemoryFormat.NHWC, precision=Precision.AMP_BF16),
    replace(MINI, cudnn_benchmark=CudnnBenchmark.ON),
    replace(MINI, loss_at=LossAt.LOGITS),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)


@functools.cache
def device() -> SimulatedDevice:
    """Return one device for all tests, which caches its last trace."""
    return SimulatedDevice(CARD, None)


def silent(_: str) -> None: ...


def explained(batch: int, variant: Variant = SMALL) -> Explanation:
    return device().explain(TrialSpec(variant=variant, batch_size=batch), silent, None)


def fits(batch: int) -> bool:
    try:
        device().run_trial(TrialSpec(variant=SMALL, batch_size=batch), silent)
    except SimulatedOutOfMemoryError:
        return False
    return True


@pytest.mark.parametrize(
    "variant", [*DEFAULTS, *OTHERS], ids=lambda v: "-".join(getattr(v, a.field) for a in AXES)
)
def test_kinds_modules_and_operators_add_up_to_the_peak_that_a_trial_predicts(
    variant: Variant,
) -> None:
    found = assert_adds_up(variant)
    assert found.fits
    assert found.scales


def assert_adds_up(variant: Variant) -> Explanation:
    found = explained(3, variant)
    trial = device().run_trial(found.spec, silent)
    assert found.peak_bytes == trial.peak_bytes
    assert found.peak_allocated_bytes == trial.peak_allocated_bytes
    for rows in (by_kind(found), by_operator(found), by_module(found, 1), by_module(found, 3)):
        assert sum(row.size_bytes for row in rows if row.depth == 0) == trial.peak_bytes
    for parent, inside in families(by_module(found, 4)):
        assert parent.size_bytes == sum(row.size_bytes for row in inside), parent.name
    assert found.rounding_bytes >= 0
    return found


def families(rows: list[Row]) -> Iterator[tuple[Row, list[Row]]]:
    """Yield each row that has parts, with its parts."""
    for number, row in enumerate(rows, start=1):
        end = next((n for n in range(number, len(rows)) if rows[n].depth <= row.depth), len(rows))
        inside = [each for each in rows[number:end] if each.depth == row.depth + 1]
        if inside:
            yield row, inside


@pytest.mark.nightly
@pytest.mark.parametrize(
    "values",
    pairwise({a.field: tuple(a.kind) for a in AXES} | {"norm": tuple(LAYERS)}),
    ids=lambda values: "-".join(values.values()),
)
def test_they_add_up_for_any_two_values_of_two_axes(values: dict[str, Any]) -> None:
    assert_adds_up(replace(MINI, **values))


@pytest.mark.nightly
@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("norm", LAYERS)
def test_they_add_up_over_every_variant(norm: Norm, precision: Precision) -> None:
    """Every norm in every precision, with each other axis changed singly, and all together."""
    plain = replace(MINI, norm=norm, precision=precision)
    others: dict[str, Any] = {
        axis.field: value
        for axis in AXES
        if axis.field not in ("norm", "precision")
        for value in list(axis.kind)[1:]
    }
    for changed in ({}, others, *({name: others[name]} for name in others)):
        assert_adds_up(replace(plain, **changed))


def test_what_each_image_adds_is_what_the_next_one_adds() -> None:
    def in_tensors(found: Explanation) -> int:
        return sum(each.size_bytes for each in found.allocations if each.kind != Kind.WORKSPACE)

    three, four = (explained(batch) for batch in (3, 4))
    assert (three.phase, three.module) == (four.phase, four.module)
    assert in_tensors(four) - in_tensors(three) == three.per_image_bytes == four.per_image_bytes


def test_the_part_of_each_image_is_known_at_batch_one_too() -> None:
    found = explained(1)
    assert found.scales
    assert found.per_image_bytes == explained(3).per_image_bytes


def test_the_line_goes_through_the_peaks_of_other_batches() -> None:
    found = explained(12)
    assert [point.batch for point in found.line] == [1, 12, 13, 25]
    assert found.line[1].used_bytes == found.used_bytes
    elsewhere = {point.batch for point in found.line if point.module != found.module}
    assert elsewhere == {1}  # the update takes more than the passes of one small image
    for point in found.line:
        on_the_line = found.fixed_bytes + point.batch * found.per_image_bytes
        if point.batch in elsewhere:
            assert on_the_line < point.used_bytes
        else:
            # This network's workspace is all that does not grow evenly.
            assert on_the_line == pytest.approx(point.used_bytes, rel=0.02)
    assert found.fixed_bytes + found.per_image_bytes < explained(1).peak_bytes


def test_the_fixed_part_is_the_same_at_a_batch_that_does_not_fit() -> None:
    beyond = explained(64)
    assert not beyond.fits
    assert beyond.rounding_bytes > beyond.fixed_bytes / 4  # counted as fixed, it would show
    assert beyond.fixed_bytes == pytest.approx(explained(12).fixed_bytes, rel=0.05)


def test_a_request_may_exceed_the_card_with_expandable_segments_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    found = explained(6000)
    assert max(each.size_bytes for each in found.allocations) > 9 / 8 * CARD.total_bytes
    assert not found.fits


def test_the_next_batch_is_played_on_an_unlimited_card() -> None:
    batch = bisect.bisect(range(64), 0, lo=1, key=lambda each: not fits(each)) - 1
    last, beyond = explained(batch), explained(batch + 1)
    assert last.next_peak_bytes == beyond.peak_bytes > CARD.total_bytes >= last.peak_bytes


def test_the_step_is_sampled_at_its_fullest_moments() -> None:
    found = explained(3)
    timeline = found.timeline
    assert [mark.phase for mark in timeline.marks] == ["forward", "backward", "optimizer"]
    assert timeline.marks[0].event == 0
    assert len(timeline.at) <= 400
    assert list(timeline.at) == sorted(set(timeline.at))
    requested = sum(each.size_bytes for each in found.allocations)
    for series in (timeline.by_kind, timeline.by_module):
        levels = [sum(sizes) for sizes in zip(*(s.sizes_bytes for s in series), strict=True)]
        assert max(levels) == requested
        assert all(
            itertools.starmap(operator.le, zip(levels, timeline.reserved_bytes, strict=True))
        )
    assert max(timeline.reserved_bytes) == found.peak_reserved_bytes
    assert max(timeline.next_allocated_bytes) == explained(4).peak_allocated_bytes


def test_every_kind_has_its_colour() -> None:
    assert set(KIND_COLOURS) == {*map(str, Kind), NOT_ATTRIBUTED}


def test_what_cublas_keeps_is_workspace_and_not_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patched in: cuBLAS keeps it until PyTorch 2.14, and DeepLab has no matrix product."""
    found = explained(2)
    kept = cublas_workspace_bytes((8, 6))
    monkeypatch.setattr(Playback, "kept_bytes", property(lambda _: kept))
    again = explained(2)
    assert again.rounding_bytes == found.rounding_bytes - kept
    assert any(each.operator == "cuBLAS" and each.size_bytes == kept for each in again.allocations)


@pytest.fixture(params=["segments", "expandable segments"])
def snapshot(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    if request.param == "expandable segments":
        monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    path = tmp_path / "snapshot.pickle"
    spec = TrialSpec(variant=SMALL, batch_size=2)
    SimulatedDevice(CARD, None).explain(spec, silent, path)
    return path


def loaded(path: Path) -> Any:
    return pickle.loads(path.read_bytes())  # noqa: S301 - written by this test


def test_pytorchs_own_tools_read_and_colour_the_snapshot(snapshot: Path) -> None:
    """The viewer reads protocols 2 to 4, and needs the category `unknown` if there are others."""
    assert snapshot.read_bytes()[:2] == b"\x80\x04"
    data = loaded(snapshot)
    categories = {entry["category"] for entry in data["device_traces"][0]}
    assert {"unknown", "parameters", "saved activations", "workspace"} <= categories
    # `segsum` itself checks that blocks fill their segments.
    assert "total_reserved" in _memory_viz.segsum(data)
    text = _memory_viz.trace(data)
    assert text.count("cudaMalloc") + text.count("segment_map") > 0
    places = _memory_viz.memory(data, lambda lines: lines)
    assert "setup:0:parameters;layer1.0.conv1:0:to" in places
    assert "optimizer:0:optimizer state" in places
    for plot in (_memory_viz.trace_plot, _memory_viz.segment_plot):
        assert "MemoryViz.js" in plot(data)


@pytest.mark.nightly
def test_pytorchs_own_command_makes_a_page_of_the_snapshot(snapshot: Path) -> None:
    page = snapshot.with_suffix(".html")
    subprocess.run(
        [sys.executable, "-m", "torch.cuda._memory_viz", "trace_plot", snapshot, "-o", page],
        check=True,
        capture_output=True,
        timeout=120,
    )
    assert page.stat().st_size > snapshot.stat().st_size


def test_the_trace_ends_in_the_segments_and_never_exceeds_its_peak(snapshot: Path) -> None:
    data = loaded(snapshot)
    live: dict[int, int] = {}
    signs = {"segment_alloc": 1, "segment_map": 1, "segment_free": -1, "segment_unmap": -1}
    reserved = peak = 0
    for entry in data["device_traces"][0]:
        assert 0 <= entry["addr"] < 2**63
        assert float(entry["addr"]) == entry["addr"]  # the viewer's numbers are doubles
        if entry["action"] == "alloc":
            assert entry["addr"] not in live
            live[entry["addr"]] = entry["size"]
        elif entry["action"] == "free_completed":
            assert live.pop(entry["addr"]) == entry["size"]
        reserved += signs.get(entry["action"], 0) * entry["size"]
        peak = max(peak, sum(live.values()))
    blocks = {
        block["address"]: block["requested_size"]
        for segment in data["segments"]
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }
    assert blocks == live
    assert sum(segment["total_size"] for segment in data["segments"]) == reserved
    assert peak <= reserved
