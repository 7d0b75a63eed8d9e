"""Recordings of `bsprobe explain` on a real GPU: `pytest -m gpu`."""

import pickle
from pathlib import Path

import pytest
from torch.cuda import _memory_viz

from bsprobe.records.explanations import NOT_ATTRIBUTED, RECORDED_SNAPSHOT, by_kind, by_module
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Source, TrialSpec
from bsprobe.records.units import GIB, Resolution
from bsprobe.records.variants import Precision, Variant
from bsprobe.simulate.explain.events import walked
from bsprobe.simulate.explain.reduction import reduced
from bsprobe.storage.explanationfile import load_explanation
from bsprobe.worker.protocol import Record
from bsprobe.worker.runner import TrialRunner
from tests.support import commands
from tests.support.recorded_peaks import beginning, replayed, stays_within

pytestmark = pytest.mark.gpu

VARIANT = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=128, width=256))


@pytest.mark.parametrize("precision", Precision)
def test_the_record_has_the_peaks_that_pytorch_counts(precision: Precision, tmp_path: Path) -> None:
    spec = TrialSpec(
        variant=Variant(model=VARIANT.model, resolution=VARIANT.resolution, precision=precision),
        batch_size=2,
    )
    path = tmp_path / RECORDED_SNAPSHOT
    with TrialRunner(DeviceRequest(device="cuda"), timeout=300) as runner:
        found = runner.record(Record(spec=spec, snapshot=str(path)), on_phase=lambda _: None)
    assert found.trial is not None, found.failure
    snapshot = pickle.loads(path.read_bytes())  # noqa: S301 - written by the worker
    trial, measured = found.trial, found.trial.measurement
    assert trial.phases[:3] == ("opening", "building", "step 1")
    history = reduced(beginning(snapshot), snapshot, marks=len(trial.phases))
    events = walked(history.history, history.marks).events
    reserved = max(each.reserved_bytes for each in events)
    assert reserved == measured.peak_reserved_bytes
    # `walked` adds up rounded requests, and blocks are larger: the replay gives the exact peak.
    assert max(each.level for each in events) <= measured.peak_allocated_bytes
    assert replayed(history.history).peak_allocated_bytes == measured.peak_allocated_bytes
    # Python runs in the forward pass, but not in the autograd engine's threads.
    assert len({*history.phases}) == 3


def test_a_network_is_explained_from_its_recording_and_its_prediction(
    tmp_path: Path,
) -> None:
    options = ("--model=deeplabv2-resnet50", "--resolution=128x256", "--memory-limit=4GiB")
    done = commands.bsprobe_process("explain", *options, "--out=out", cwd=tmp_path, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "[measured, and" in done.stdout
    report = load_explanation(tmp_path / "out")
    assert report.measured is not None
    found, boundary = report.measured.explanation, report.measured.boundary
    assert found is not None, report.measured.failure
    assert boundary is not None
    assert boundary.is_exact
    assert found.spec.batch_size == boundary.largest
    assert found.source is Source.MEASURED
    assert stays_within(4 * GIB, found)
    for rows in (by_kind(found), by_module(found, 2)):
        assert sum(row.size_bytes for row in rows if row.depth == 0) == found.peak_bytes
    unknown = sum(each.size_bytes for each in found.allocations if each.kind == NOT_ATTRIBUTED)
    assert unknown <= 0.1 * found.peak_bytes
    assert [mark.phase for mark in found.timeline.marks] == ["forward", "backward", "optimizer"]
    snapshot = pickle.loads((tmp_path / "out" / RECORDED_SNAPSHOT).read_bytes())  # noqa: S301 - as above
    assert "total_reserved" in _memory_viz.segsum(snapshot)
    assert "MemoryViz.js" in _memory_viz.trace_plot(snapshot)
