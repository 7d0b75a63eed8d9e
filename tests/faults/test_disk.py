"""Full disks, read-only folders, and two runs with one folder."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bsprobe.records.errors import FileError
from bsprobe.storage.journal import NAME, Journal
from tests.support.builders import header
from tests.support.commands import assert_no_trial_was_repeated, python_path
from tests.support.stubbed_bsprobe import RUN, findings, finish, start

resource = pytest.importorskip("resource")

_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1
"""From linux/prctl.h and linux/capability.h. Without the capability, root obeys permissions."""


def files_end_at(size: int) -> Callable[[], None]:
    """Return a function for the child that limits the size of files, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def obey_permissions() -> None:
    """In the child, drop the right of root to ignore permissions."""
    if os.geteuid() == 0:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def complain_clearly(code: int, complaints: str, what: str) -> None:
    last = complaints.splitlines()[-2:]
    assert (code, "Traceback" in complaints) == (2, False), complaints
    assert last[0].startswith("error: ")
    assert what in last[0]
    assert last[1].startswith("hint: ")


@pytest.mark.parametrize(
    "share",
    [0.5, *[pytest.param(share, marks=pytest.mark.nightly) for share in (0.0, 0.001, 0.1, 0.95)]],
)
def test_a_full_disk_stops_the_run_and_it_resumes_after_space_is_freed(
    tmp_path: Path, reference: Path, share: float
) -> None:
    # Temporary files need a few bytes.
    size = max(16, int(share * (reference / NAME).stat().st_size))
    process = start(*RUN, cwd=tmp_path, before_exec=files_end_at(size))
    code, _, complaints = finish(process)
    complain_clearly(code, complaints, "File too large")
    path = tmp_path / "out" / NAME
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    code, _, complaints = finish(start(*RUN, "--resume", cwd=tmp_path))
    if not kept:  # the first line is incomplete, so the run cannot be resumed
        complain_clearly(code, complaints, "the journal was removed")
        code, _, complaints = finish(start(*RUN, cwd=tmp_path))
    assert code == 0, complaints
    assert path.read_bytes().splitlines(keepends=True)[: len(kept)] == kept
    assert findings(tmp_path / "out") == findings(reference)
    assert_no_trial_was_repeated(tmp_path / "out")


@pytest.mark.nightly
def test_a_disk_too_full_for_the_report_keeps_the_run(tmp_path: Path, reference: Path) -> None:
    size = (reference / "run.json").stat().st_size + 100
    code, _, complaints = finish(start(*RUN, cwd=tmp_path, before_exec=files_end_at(size)))
    complain_clearly(code, complaints, "memory.svg: File too large")
    assert findings(tmp_path / "out") == findings(reference)
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []
    assert finish(start("report", "out", cwd=tmp_path))[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full device")
def test_a_full_disk_behind_standard_output_is_an_error_with_a_hint(reference: Path) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bsprobe", "compare", reference, reference],
            env={**os.environ, "PYTHONPATH": python_path()},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    complain_clearly(done.returncode, done.stderr, "No space left on device")
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="root's override is Linux's")
def test_a_read_only_folder_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    process = start(*RUN[:-1], "--out=locked/out", cwd=tmp_path, before_exec=obey_permissions)
    code, _, complaints = finish(process)
    complain_clearly(code, complaints, "locked/out: Permission denied")
    assert "batch 1" not in complaints
    assert list(locked.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.skipif(sys.platform != "linux", reason="root's override is Linux's")
def test_a_folder_that_became_read_only_is_resumed_once_it_is_not(
    tmp_path: Path, reference: Path
) -> None:
    out = tmp_path / "out"
    finish(start(*RUN, cwd=tmp_path, before_exec=files_end_at(6000)))
    out.chmod(0o555)
    resuming = (*RUN, "--resume")
    code, _, complaints = finish(start(*resuming, cwd=tmp_path, before_exec=obey_permissions))
    complain_clearly(code, complaints, "out/run.json: Permission denied")
    (out / NAME).chmod(0o444)
    code, _, complaints = finish(start(*resuming, cwd=tmp_path, before_exec=obey_permissions))
    complain_clearly(code, complaints, f"out/{NAME}: Permission denied")
    (out / NAME).chmod(0o644)
    out.chmod(0o755)
    assert finish(start(*resuming, cwd=tmp_path, before_exec=obey_permissions))[0] == 0
    assert findings(out) == findings(reference)
    # Reading works without write permission.
    out.chmod(0o555)
    compare = start("compare", "out", str(reference), cwd=tmp_path, before_exec=obey_permissions)
    assert finish(compare)[0] == 0
    report = start("report", "out", cwd=tmp_path, before_exec=obey_permissions)
    code, _, complaints = finish(report)
    complain_clearly(code, complaints, "Permission denied")
    elsewhere = start("report", "out", "--out=new", cwd=tmp_path, before_exec=obey_permissions)
    assert finish(elsewhere)[0] == 0
    out.chmod(0o755)


@pytest.mark.nightly
@pytest.mark.parametrize(
    "round_", [0, 1, *(pytest.param(each, marks=pytest.mark.nightly) for each in (2, 3))]
)
def test_of_runs_into_one_folder_one_writes_and_the_others_exit_with_2(
    tmp_path: Path, reference: Path, round_: int
) -> None:
    resuming = [[], ["--resume"]]
    started = [start(*RUN, *resuming[(number + round_) % 2], cwd=tmp_path) for number in range(6)]
    ended = [finish(process) for process in started]
    assert {code for code, _, _ in ended} <= {0, 2}
    assert 0 in {code for code, _, _ in ended}
    for code, _, complaints in ended:
        assert "Traceback" not in complaints
        if code:
            assert any(
                words in complaints
                for words in (
                    *("another bsprobe command is writing", "exists", "is not an empty folder"),
                    *("does not exist", "holds no run to go on with", "is finished"),
                )
            ), complaints
    assert findings(tmp_path / "out") == findings(reference)
    assert_no_trial_was_repeated(tmp_path / "out")


@pytest.mark.nightly
def test_reports_into_one_folder_at_the_same_time_all_succeed(
    tmp_path: Path, reference: Path
) -> None:
    shutil.copytree(reference, tmp_path / "out")
    started = [start("report", "out", cwd=tmp_path) for _ in range(6)]
    ended = [finish(process) for process in started]
    assert [(code, complaints) for code, _, complaints in ended] == [(0, "")] * 6
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        path.name for path in reference.iterdir()
    }
    assert findings(tmp_path / "out") == findings(reference)


def test_a_journal_that_was_removed_before_it_was_locked_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another resumed run removes the empty journal between opening and locking."""
    lock = Journal._lock

    def be_late(journal: Journal) -> None:
        monkeypatch.setattr(Journal, "_lock", lock)
        assert Journal.resume(tmp_path) is None
        lock(journal)

    monkeypatch.setattr(Journal, "_lock", be_late)
    with pytest.raises(FileError, match="another bsprobe command is writing"):
        Journal.create(tmp_path, header())
