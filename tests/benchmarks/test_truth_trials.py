"""Trials recorded in this process, with a stub in the place of the GPU."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from builders import ENVIRONMENT, VARIANT
from stub_gpu import StubGpu, StubRecorder
from truth_plan import Configuration
from truth_records import Machine, load_machine, load_trial, trial_path
from truth_trials import START_AGAIN, died, machine_of, note_machine, record, record_missing

from bsprobe.errors import FileError, UsageError
from bsprobe.failures import Outcome
from bsprobe.simulate.history import load_history
from bsprobe.simulate.replay import replay_addresses
from bsprobe.trials import TrialSpec

PLAN = tuple(
    Configuration(name=f"b{batch}", spec=TrialSpec(variant=VARIANT, batch_size=batch))
    for batch in (1, 2, 3)
)


def later() -> float:
    return time.monotonic() + 3600


def recorded(folder: Path, gpu: StubGpu, *, deadline: float | None = None) -> int:
    return record_missing(
        PLAN,
        folder,
        device=gpu,
        recorder=StubRecorder(),
        deadline=later() if deadline is None else deadline,
    )


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
    failed = load_trial(trial_path(tmp_path, "b2"))
    assert failed.outcome is Outcome.OUT_OF_MEMORY
    assert failed.measurement is None
    assert failed.failure is not None
    assert failed.failure.phase == "step 1"
    assert load_history(trial_path(tmp_path, "b2")).name == "b2"
    assert names(tmp_path) == ["b1.json.gz", "b2.json.gz", "b3.json.gz"]


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
    assert recorded(tmp_path, StubGpu(), deadline=time.monotonic() - 1) == 0
    assert names(tmp_path) == []


def test_what_is_timed_is_not_watched() -> None:
    recorder = StubRecorder()
    trial, history = record(replace(PLAN[0], has_history=False), StubGpu(), recorder)
    assert (recorder.calls, history, trial.marks) == ([], None, ())


def test_an_error_that_is_no_verdict_stops_the_recording() -> None:
    gpu = StubGpu({1: UsageError("no such model")})
    with pytest.raises(UsageError, match="no such model"):
        record(PLAN[0], gpu, StubRecorder())


def test_a_process_that_died_is_a_record() -> None:
    trial = died(PLAN[0], status=-9, last_words="one\ntwo\n")
    assert trial.outcome is Outcome.FAILED
    assert trial.failure is not None
    assert (trial.failure.message, trial.failure.evidence) == ("two", "exit status -9")


def machine(**versions: str) -> Machine:
    found = machine_of(StubGpu(), outside_bytes=5)
    return replace(found, environment=replace(ENVIRONMENT, **versions))  # type: ignore[arg-type] # all of them are text


def test_a_machine_is_written_once(tmp_path: Path) -> None:
    note_machine(tmp_path, machine())
    note_machine(tmp_path, replace(machine(), outside_at_rest_bytes=6))
    assert load_machine(tmp_path) == machine()


def test_figures_of_two_versions_do_not_mix(tmp_path: Path) -> None:
    note_machine(tmp_path, machine())
    with pytest.raises(
        FileError, match=r"PyTorch 2\.6\.0\+cu124.*this is PyTorch 2\.9\.0"
    ) as error:
        note_machine(tmp_path, machine(torch="2.9.0"))
    assert error.value.hint == "give another --out"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    recorded(tmp_path, StubGpu())
    path = trial_path(tmp_path, "b1")
    whole = path.read_bytes()
    for damaged in (b"", whole[:-20], b"no gzip at all"):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match="b1"):
            load_trial(path)
