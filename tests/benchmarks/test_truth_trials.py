"""Trials recorded in this process, with a stub of the GPU."""

import gzip
import pickle
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from benchmarks.truth_history import keep_raw
from benchmarks.truth_machine import machine_of, note_machine
from benchmarks.truth_plan import Configuration
from benchmarks.truth_records import (
    Machine,
    TruthTrial,
    load_machine,
    load_trial,
    raw_path,
    trial_path,
)
from benchmarks.truth_trials import (
    START_AGAIN,
    STOPPED,
    being_recorded,
    died,
    record,
    record_missing,
    waiting,
)
from benchmarks.validation.history import load_history
from benchmarks.validation.replay import replay_addresses
from bsprobe.devices.base import ReportPhase
from bsprobe.records.errors import FileError, UsageError
from bsprobe.records.failures import Outcome
from bsprobe.records.trials import Measurement, TrialSpec
from tests.support.builders import ENVIRONMENT, VARIANT
from tests.support.failing_import import failing_import
from tests.support.snapshots import EMPTY, PEAK_RESERVED
from tests.support.stub_gpu import UNKNOWN_EVENT, StubGpu, StubRecorder


def planned(*batches: int) -> tuple[Configuration, ...]:
    return tuple(
        Configuration(
            name=f"b{batch}",
            spec=TrialSpec(variant=VARIANT, batch_size=batch),
            process="histories",
        )
        for batch in batches
    )


PLAN = planned(1, 2, 3)
NOW, TOMORROW = "2026-01-01", "9999-01-01"


def recorded(
    folder: Path,
    gpu: StubGpu,
    *,
    plan: tuple[Configuration, ...] = PLAN,
    since: str = NOW,
    recorder: StubRecorder | None = None,
    minutes: float = 60,
) -> int:
    return record_missing(
        waiting(folder, plan, since=since),
        folder,
        device=gpu,
        recorder=recorder or StubRecorder(),
        deadline=time.monotonic() + 60 * minutes,
    )


def trial_of(folder: Path, name: str) -> TruthTrial:
    return load_trial(trial_path(folder, name))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.json.gz"))


def test_a_recorded_trial_is_a_history_whose_addresses_the_simulation_reproduces(
    tmp_path: Path,
) -> None:
    assert recorded(tmp_path, StubGpu()) == 0
    path = trial_path(tmp_path, "b1")
    history = load_history(path)
    assert replay_addresses(history) == history.result
    trial = load_trial(path)
    assert trial.outcome is Outcome.FITS
    assert trial.marks == ((0, "building"), (2, "step 1"))
    assert len(trial.place_of) == 3


def test_what_is_there_is_not_recorded_again(tmp_path: Path) -> None:
    recorded(tmp_path, StubGpu())
    trial_path(tmp_path, "b2").unlink()
    gpu = StubGpu()
    recorded(tmp_path, gpu)
    assert [spec.batch_size for spec in gpu.asked] == [2]
    assert names(tmp_path) == ["b1.json.gz", "b2.json.gz", "b3.json.gz"]


def test_a_failed_trial_is_recorded_and_the_next_one_goes_on(tmp_path: Path) -> None:
    gpu = StubGpu({2: MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")})
    assert recorded(tmp_path, gpu) == 0
    failed = trial_of(tmp_path, "b2")
    assert failed.outcome is Outcome.OUT_OF_MEMORY
    assert failed.measurement is None
    assert failed.failure is not None
    assert failed.failure.phase == "step 1"
    assert load_history(trial_path(tmp_path, "b2")).name == "b2"
    assert names(tmp_path) == ["b1.json.gz", "b2.json.gz", "b3.json.gz"]


# A history that cannot be reduced.

CANNOT = "unknown event 'workspace_snapshot'"


def test_a_history_that_cannot_be_reduced_costs_no_figure_and_stops_nothing(tmp_path: Path) -> None:
    gpu = StubGpu()
    recorder = StubRecorder(unknown_events_at={1})
    assert recorded(tmp_path, gpu, recorder=recorder) == 0
    assert names(tmp_path) == ["b1.json.gz", "b2.json.gz", "b3.json.gz"]
    trial = trial_of(tmp_path, "b1")
    assert trial.outcome is Outcome.FITS
    assert trial.measurement is not None
    assert trial.measurement.peak_reserved_bytes == PEAK_RESERVED
    assert re.match(f"UnknownEventError: {CANNOT}", trial.history_failure)
    assert trial.history_failure.endswith("kept raw in raw/b1.pickle.gz")
    assert trial_of(tmp_path, "b2").history_failure == ""


def test_the_first_raw_recording_is_kept_as_pytorch_made_it_and_no_other(tmp_path: Path) -> None:
    recorder = StubRecorder(unknown_events_at={1, 2})
    recorded(tmp_path, StubGpu(), recorder=recorder)
    raw = pickle.loads(gzip.decompress(raw_path(tmp_path, "b1").read_bytes()))  # noqa: S301 - written above
    assert raw == {"before": EMPTY, "after": UNKNOWN_EVENT, "phases": ("building", "step 1")}
    assert [path.name for path in raw_path(tmp_path, "b1").parent.iterdir()] == ["b1.pickle.gz"]
    second = trial_of(tmp_path, "b2").history_failure
    assert second.endswith("another one is kept raw")


def test_a_recording_too_large_for_an_archive_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.truth_history._MOST_RAW_BYTES", 10)
    _, recording = record(PLAN[0], StubGpu(), StubRecorder())
    assert recording is not None
    assert keep_raw(tmp_path, "b1", recording).startswith("too large to be kept raw")
    assert list(tmp_path.iterdir()) == []


def test_figures_are_on_the_disk_before_the_history_is_reduced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("benchmarks.truth_trials.with_history", killed)
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path, StubGpu())
    trial = trial_of(tmp_path, "b1")
    assert trial.measurement is not None
    assert trial.history_failure == "not reduced yet"


def test_three_histories_in_a_row_that_cannot_be_reduced_stop_the_process(tmp_path: Path) -> None:
    plan = planned(1, 2, 3, 4, 5)
    recorder = StubRecorder(unknown_events_at={1, 3, 4, 5})
    assert recorded(tmp_path, StubGpu(), plan=plan, recorder=recorder) == STOPPED
    assert names(tmp_path) == [f"b{batch}.json.gz" for batch in (1, 2, 3, 4, 5)]
    again = StubGpu()
    assert recorded(tmp_path, again, plan=planned(1, 2, 3, 4, 5, 6), since=TOMORROW) == 0
    assert [spec.batch_size for spec in again.asked] == [6, 1, 3, 4, 5]


# Failed trials.


def failing(*batches: int) -> StubGpu:
    return StubGpu({batch: RuntimeError("shape mismatch") for batch in batches})


def test_what_failed_is_tried_again_in_the_next_session_after_what_is_missing(
    tmp_path: Path,
) -> None:
    assert recorded(tmp_path, failing(1), plan=PLAN[:2]) == 0
    same_session = StubGpu()
    recorded(tmp_path, same_session, since=NOW)
    assert [spec.batch_size for spec in same_session.asked] == [3]
    trial_path(tmp_path, "b3").unlink()
    next_session = StubGpu()
    recorded(tmp_path, next_session, since=TOMORROW)
    assert [spec.batch_size for spec in next_session.asked] == [3, 1]
    assert trial_of(tmp_path, "b1").outcome is Outcome.FITS


def test_one_bug_in_every_trial_ends_the_process_after_three(tmp_path: Path) -> None:
    gpu = failing(*range(1, 9))
    assert recorded(tmp_path, gpu, plan=planned(*range(1, 9))) == STOPPED
    assert [spec.batch_size for spec in gpu.asked] == [1, 2, 3]


def test_being_out_of_memory_is_a_result_and_never_tried_again(tmp_path: Path) -> None:
    full = {each: MemoryError("CUDA out of memory. Tried to allocate 2 GiB.") for each in (1, 2, 3)}
    assert recorded(tmp_path, StubGpu(full)) == 0
    assert waiting(tmp_path, PLAN, since=TOMORROW) == ()


def test_a_damaged_record_is_set_aside_and_recorded_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded(tmp_path, StubGpu())
    path = trial_path(tmp_path, "b2")
    path.write_bytes(b"half a file")
    assert waiting(tmp_path, PLAN, since=NOW) == (PLAN[1],)
    assert path.with_name("b2.json.gz.damaged").read_bytes() == b"half a file"
    assert "b2.json.gz: Not a gzipped file" in capsys.readouterr().err


def test_the_trial_that_runs_is_noted_while_it_runs(tmp_path: Path) -> None:
    class Watching(StubGpu):
        def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
            seen.append(being_recorded(tmp_path))
            return super().run_trial(spec, report)

    seen: list[str | None] = []
    recorded(tmp_path, Watching())
    assert seen == ["b1", "b2", "b3"]
    assert being_recorded(tmp_path) is None


# The end of a process.


def test_a_trial_that_leaves_something_behind_ends_the_process(tmp_path: Path) -> None:
    assert recorded(tmp_path, StubGpu(clean=False)) == START_AGAIN
    assert names(tmp_path) == ["b1.json.gz"]


def test_a_gpu_that_is_broken_for_this_process_ends_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(StubGpu):
        def is_clean(self) -> bool:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    assert recorded(tmp_path, Broken()) == START_AGAIN
    assert "illegal memory access" in capsys.readouterr().err


def test_nothing_is_begun_after_the_time_is_up(tmp_path: Path) -> None:
    assert recorded(tmp_path, StubGpu(), minutes=-1) == 0
    assert names(tmp_path) == []


def test_what_is_timed_is_not_watched() -> None:
    recorder = StubRecorder()
    trial, recording = record(replace(PLAN[0], has_history=False), StubGpu(), recorder)
    assert (recorder.calls, recording, trial.marks) == ([], None, ())


def test_a_recorder_that_cannot_stop_does_not_lose_the_trial(tmp_path: Path) -> None:
    class Lost(StubRecorder):
        def stop(self) -> Mapping[str, Any]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    gpu = StubGpu({1: RuntimeError("CUDA error: an illegal memory access was encountered")})
    assert recorded(tmp_path, gpu, plan=PLAN[:1], recorder=Lost()) == 0
    trial = trial_of(tmp_path, "b1")
    assert trial.outcome is Outcome.FAILED
    assert "did not stop: CUDA error" in trial.history_failure


def test_a_trial_that_is_refused_has_failed_and_the_next_one_goes_on(tmp_path: Path) -> None:
    assert recorded(tmp_path, StubGpu({1: UsageError("no such model")})) == 0
    trials = [trial_of(tmp_path, name) for name in ("b1", "b2")]
    assert [trial.outcome for trial in trials] == [Outcome.FAILED, Outcome.FITS]


def test_a_full_disk_stops_the_recording() -> None:
    gpu = StubGpu({1: FileError("no space left on the device")})
    with pytest.raises(FileError, match="no space left"):
        record(PLAN[0], gpu, StubRecorder())


def test_a_process_that_died_is_a_record() -> None:
    trial = died(PLAN[0], status=-9, last_words="one\ntwo\n")
    assert trial.outcome is Outcome.FAILED
    assert trial.failure is not None
    assert (trial.failure.message, trial.failure.evidence) == ("two", "exit status -9")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'cudnn'"), "nvidia-cudnn-frontend is not installed"),
        (AssertionError("Found 2"), "cuDNN does not say: AssertionError('Found 2')"),
        (
            OSError("libcudnn.so.9: no such file"),
            "cuDNN does not say: OSError('libcudnn.so.9: no such file')",
        ),
        (ImportError("undefined symbol"), "cuDNN does not say: ImportError('undefined symbol')"),
    ],
)
def test_whatever_cudnns_package_raises_is_written_down(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_import(monkeypatch, "cudnn", error)
    assert machine().cudnn_properties == said
    broken = SimpleNamespace(create_device_properties=Mock(side_effect=AssertionError("no GPU")))
    monkeypatch.setitem(sys.modules, "cudnn", broken)
    assert machine().cudnn_properties == "cuDNN does not say: AssertionError('no GPU')"


def machine(**versions: str) -> Machine:
    found = machine_of(StubGpu(), outside_bytes=5)
    return replace(found, environment=replace(ENVIRONMENT, **versions))  # type: ignore[arg-type] # all values are text


def test_a_machine_is_written_once(tmp_path: Path) -> None:
    note_machine(tmp_path, machine())
    note_machine(tmp_path, replace(machine(), outside_at_rest_bytes=6))
    assert load_machine(tmp_path) == machine()


def test_figures_of_two_versions_do_not_mix(tmp_path: Path) -> None:
    note_machine(tmp_path, machine())
    with pytest.raises(FileError, match=r"PyTorch 2\.6\.0\+cu124.*PyTorch 2\.9\.0") as error:
        note_machine(tmp_path, machine(torch="2.9.0"))
    assert "--out" in str(error.value.hint)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    recorded(tmp_path, StubGpu())
    path = trial_path(tmp_path, "b1")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], b"no gzip at all"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="b1"):
            load_trial(path)
