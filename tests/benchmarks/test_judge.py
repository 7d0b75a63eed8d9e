"""judge.sh: collecting recordings, making the environment, and running the scripts, with stubs."""

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fake_reports import REPORTS
from benchmarks.judge import by_environment
from benchmarks.judge_environment import InstallationError, Wanted, prepare, requirements, wanted_by
from benchmarks.judge_sources import gather
from bsprobe.records.errors import FileError
from bsprobe.records.units import Resolution
from tests.support.commands import ROOT, run
from tests.support.fabricated_truth import (
    ELSEWHERE,
    FAKE_MACHINE,
    MACHINE,
    SPEC,
    requests_here,
    truth_trial,
    write_machine,
    write_trial,
)

SCRIPT = ROOT / "benchmarks" / "judge.sh"
STUB = ROOT / "tests" / "support" / "stub_python.sh"
RECORDED = replace(
    MACHINE,
    environment=replace(
        MACHINE.environment,
        python="3.12.1",
        torch="2.11.0+cu130",
        torchvision="0.26.0+cu130",
        cudnn="91900",
    ),
)
WANTED = Wanted(python="3.12", torch="2.11.0", torchvision="0.26.0", cudnn="91900")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A card with two trial files, whose content is not read here, and unrelated files."""
    folder = tmp_path / "truth" / "card"
    write_machine(folder, RECORDED)
    for part, name in (("trials", "one"), ("trials", "two"), ("unfinished", "three")):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"{name}.json.gz").write_text(name)
    return folder.parent


def files_below(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "machine.json"
    }


def packed(archive: Path, root: Path, *names: str) -> Path:
    with tarfile.open(archive, "w") as tar:
        for name in names:
            tar.add(root / name, arcname=name)
    return archive


# Collecting recordings.


def test_a_folder_of_gpus_a_gpus_folder_and_parts_of_an_archive_are_the_same(
    root: Path, tmp_path: Path
) -> None:
    first = packed(tmp_path / "truth-1.tar", root, "card/machine.json", "card/trials/one.json.gz")
    second = packed(tmp_path / "truth-2.tar", root, "card/trials/two.json.gz")
    whole = packed(tmp_path / "whole.tar", root, "card")
    for number, sources in enumerate(
        ([root], [root / "card"], [second, first], [whole], [whole, root, first])
    ):
        staging = tmp_path / f"staging-{number}"
        staging.mkdir()
        found = gather(sources, staging)
        assert list(found.values()) == [RECORDED]
        (folder,) = found
        assert files_below(folder.parent) == {
            "card/trials/one.json.gz": "one",
            "card/trials/two.json.gz": "two",
        }


def hostile(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("../../outside/machine.json")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    return path


def truncated(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("card/trials/one.json.gz")
        member.size = 100_000
        tar.addfile(member, io.BytesIO(bytes(100_000)))
    path.write_bytes(path.read_bytes()[:50_000])
    return path


def no_archive(path: Path) -> Path:
    path.write_text("these are words")
    return path


def empty(path: Path) -> Path:
    path.mkdir()
    return path


def absent(path: Path) -> Path:
    return path


def without_machine(path: Path) -> Path:
    (path / "card" / "trials").mkdir(parents=True)
    (path / "card" / "trials" / "one.json.gz").write_text("one")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (hostile, "is damaged or not an archive"),
        (truncated, "is damaged or not an archive"),
        (no_archive, "is damaged or not an archive"),
        (empty, "holds no recordings"),
        (absent, "does not exist"),
        (without_machine, r"the recordings of card have no machine\.json"),
    ],
)
def test_what_is_no_recording_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    staging = tmp_path / "deep" / "staging"
    staging.mkdir(parents=True)
    with pytest.raises(FileError, match=words) as caught:
        gather([make(tmp_path / "source")], staging)
    assert caught.value.hint is not None
    assert not list(tmp_path.rglob("outside"))


def test_two_sessions_are_judged_together_if_gpu_and_versions_are_the_same(
    root: Path, tmp_path: Path
) -> None:
    later = tmp_path / "later"
    started = replace(RECORDED.environment, started_at="2026-01-01T12:00:00+00:00")
    write_machine(later / "card", replace(RECORDED, environment=started))
    (later / "card" / "trials").mkdir()
    (later / "card" / "trials" / "three.json.gz").write_text("three")
    staging = tmp_path / "staging"
    staging.mkdir()
    (folder,) = gather([root, later], staging)
    assert sorted(files_below(folder)) == [
        f"trials/{name}.json.gz" for name in ("one", "three", "two")
    ]
    for machine, content in (
        (replace(RECORDED, environment=ELSEWHERE), "three"),
        (RECORDED, "not one"),
    ):
        write_machine(later / "card", machine)
        (later / "card" / "trials" / "one.json.gz").write_text(content)
        again = tmp_path / f"staging-{content}"
        again.mkdir()
        with pytest.raises(FileError, match="differs between two sources"):
            gather([root, later], again)


# The environment.


def test_the_wanted_versions_are_releases_and_name_the_folder() -> None:
    assert wanted_by(RECORDED) == WANTED
    assert WANTED.folder_name == ".venv-judge-2.11.0-91900"
    assert "/" not in replace(WANTED, torch="../../2.11.0").folder_name


def test_machines_with_equal_versions_share_an_environment() -> None:
    other = replace(RECORDED, environment=ELSEWHERE)
    assert by_environment({Path("a"): RECORDED, Path("b"): other, Path("c"): RECORDED}) == [
        (WANTED, [Path("a"), Path("c")]),
        (wanted_by(other), [Path("b")]),
    ]


def test_everything_that_bsprobe_depends_on_is_required_with_the_recorded_pins() -> None:
    found = requirements(WANTED)
    assert found[:2] == ["torch==2.11.0", "torchvision==0.26.0"]
    assert [text for text in found if text.startswith("nvidia-cudnn-frontend>=")]
    assert requirements(replace(WANTED, torchvision=None))[1].startswith("torchvision>=")


class Stubs:
    """Stub programs in a folder on PATH, with a log of their arguments."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._log = folder / "bin", folder / "log.txt"
        self._folder.mkdir()
        monkeypatch.setenv("STUB_LOG", str(self._log))
        monkeypatch.setenv("PATH", f"{self._folder}:/usr/bin:/bin")

    def add(self, name: str) -> Path:
        path = self._folder / name
        shutil.copy(STUB, path)
        path.chmod(0o755)
        return path

    def refuse(self, name: str) -> None:
        """Make a program fail, like a missing one."""
        path = self.add(name)
        path.write_text("#!/bin/sh\nexit 127\n")

    def asked(self) -> list[str]:
        text = self._log.read_text() if self._log.exists() else ""
        self._log.unlink(missing_ok=True)
        return text.splitlines()


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    return Stubs(tmp_path, monkeypatch)


def installs(asked: Sequence[str]) -> list[str]:
    return [line for line in asked if " install " in line]


@pytest.mark.parametrize("tool", ["uv", "pip"])
def test_an_environment_is_made_once_with_the_recorded_python(
    stubs: Stubs, tmp_path: Path, tool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = stubs.add("python3.12")
    (stubs.add if tool == "uv" else stubs.refuse)("uv")
    python = prepare(WANTED, tmp_path)
    folder = tmp_path / ".venv-judge-2.11.0-91900"
    assert python == folder / "bin" / "python"
    asked = stubs.asked()
    (installed,) = installs(asked)
    needed = " ".join(requirements(WANTED))
    if tool == "uv":
        assert f"uv venv --python {base} {folder}" in asked
        assert installed == f"uv pip install --python {python} {needed}"
    else:
        assert f"python3.12 -m venv {folder}" in asked
        assert installed == f"python -m pip --disable-pip-version-check install {needed}"
    assert "note:" not in capsys.readouterr().out
    assert prepare(WANTED, tmp_path) == python
    assert installs(stubs.asked()) == []


def test_an_environment_that_was_not_finished_is_made_anew(
    stubs: Stubs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubs.add("python3.12")
    stubs.add("uv")
    monkeypatch.setenv("STUB_MISSING", "torch==2.11.0")
    with pytest.raises(InstallationError, match="Could not find a version") as caught:
        prepare(WANTED, tmp_path)
    assert "network" in (caught.value.hint or "")
    monkeypatch.delenv("STUB_MISSING")
    left = tmp_path / WANTED.folder_name / "left-behind"
    left.touch()
    stubs.asked()
    prepare(WANTED, tmp_path)
    assert (len(installs(stubs.asked())), left.exists()) == (1, False)


def test_another_python_takes_the_place_of_one_that_is_not_there_and_a_note_says_so(
    stubs: Stubs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STUB_MINOR", "3.9")  # a shim that starts another Python
    stubs.add("python3.99")
    stubs.add("uv")
    prepare(replace(WANTED, python="3.99"), tmp_path)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"uv venv --python {sys.executable} {tmp_path / WANTED.folder_name}" in stubs.asked()
    note = capsys.readouterr().out
    assert "no Python 3.99 on PATH" in note
    assert here in note


def test_the_recorded_cudnn_is_installed_where_pytorch_brings_another(
    stubs: Stubs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stubs.add("python3.12")
    stubs.add("uv")
    monkeypatch.setenv("STUB_FACTS", "2.11.0+cu130 13.0 92000")
    python = prepare(WANTED, tmp_path)
    last = f"uv pip install --python {python} nvidia-cudnn-cu13==9.19.0.*"
    assert installs(stubs.asked())[1:] == [last]
    shutil.rmtree(tmp_path / WANTED.folder_name)
    monkeypatch.setenv("STUB_MISSING", "nvidia-cudnn-cu13==")
    assert prepare(WANTED, tmp_path) == python
    assert "note: the environment cannot be made" in capsys.readouterr().out


def test_pytorchs_own_cudnn_is_put_back_where_it_does_not_start_with_the_recorded_one(
    stubs: Stubs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stubs.add("python3.12")
    stubs.add("uv")
    monkeypatch.setenv("STUB_FACTS", "2.11.0+cu130 13.0 92000")
    monkeypatch.setenv("STUB_TOO_OLD", "cu13==9.19.0")
    prepare(WANTED, tmp_path)
    found = [line.rpartition(" ")[2] for line in installs(stubs.asked())[1:]]
    assert found == ["nvidia-cudnn-cu13==9.19.0.*", "nvidia-cudnn-cu13==9.20.0.*"]
    assert "the recorded cuDNN 9.19.0: it keeps 9.20.0" in capsys.readouterr().out


# The whole script.


def judge(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # its python3 runs judge.py
    variables = {"PATH": path, **environment}
    return run("/bin/bash", SCRIPT, *arguments, cwd=None, text="", timeout=300, **variables)


def test_it_predicts_compares_and_reports_in_this_order(
    root: Path, tmp_path: Path, stubs: Stubs
) -> None:
    out, python = tmp_path / "out", stubs.add("stub")
    done = judge("--out", out, root, JUDGE_PYTHON=str(python))
    assert (done.returncode, done.stderr) == (0, "")
    assert "# Accuracy: stub\n" in done.stdout
    assert f"{out / 'accuracy.md'}" in done.stdout
    assert (out / "requests.txt").read_text() == "requests of a stub\n"
    asked = [line.split()[1:] for line in stubs.asked()]
    scripts = [(words[0], [word for word in words if word.startswith("--")]) for words in asked]
    assert scripts == [
        ("accuracy.py", ["--truth", "--save"]),
        ("truth_versions.py", []),
        ("compare_requests.py", ["--truth", "--show"]),
        ("accuracy.py", ["--load", "--out"]),
    ]
    assert asked[2][-2:] == ["--show", "all"]


def test_with_other_versions_requests_are_not_compared_and_it_says_so(
    root: Path, tmp_path: Path, stubs: Stubs
) -> None:
    out, python = tmp_path / "out", stubs.add("stub")
    words = "cuDNN 9.26.0 instead of 9.19.0"
    done = judge("--out", out, root, JUDGE_PYTHON=str(python), STUB_DIFFERENCE=words)
    assert done.returncode == 0
    requests = (out / "requests.txt").read_text()
    assert f"note: {requests.rstrip()}" in done.stdout
    assert requests.startswith("card: ")
    assert requests.endswith(f"{words}\n")
    assert [line for line in stubs.asked() if "compare_requests" in line] == []


def test_gpus_of_several_versions_are_judged_one_after_the_other_and_make_one_report(
    root: Path, tmp_path: Path, stubs: Stubs
) -> None:
    write_machine(root / "later", replace(RECORDED, environment=ELSEWHERE))
    out, python = tmp_path / "out", stubs.add("stub")
    done = judge("--out", out, root, JUDGE_PYTHON=str(python))
    assert (done.returncode, done.stdout.count("# Accuracy: stub\n")) == (0, 1)
    asked = [line.split()[1:] for line in stubs.asked()]
    assert [words[0] for words in asked] == [
        *["accuracy.py", "truth_versions.py", "compare_requests.py"] * 2,
        "accuracy.py",
    ]
    kept = [words[-1] for words in asked if "--save" in words]
    assert asked[-1][1:] == ["--load", *kept, "--out", str(out)]
    assert (out / "requests.txt").read_text() == "requests of a stub\n\nrequests of a stub\n"


def test_without_a_python_that_is_new_enough_it_says_so(tmp_path: Path) -> None:
    dirname = shutil.which("dirname")
    assert dirname is not None
    (tmp_path / "dirname").symlink_to(dirname)
    done = judge("truth", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error.startswith("error: ")
    assert "3.11.4" in error
    assert hint.startswith("hint: ")


def test_fakes_are_accepted_and_kept_out_of_the_repositorys_reports(
    root: Path, tmp_path: Path, stubs: Stubs
) -> None:
    write_machine(root / "card", replace(FAKE_MACHINE, environment=RECORDED.environment))
    python = str(stubs.add("stub"))
    done = judge(root, JUDGE_PYTHON=python)
    assert (done.returncode, stubs.asked()) == (2, [])
    assert done.stderr.startswith("error: ")
    assert "fake GPU" in done.stderr
    assert judge("--out", tmp_path / "out", root, JUDGE_PYTHON=python).returncode == 0
    assert [line.endswith("--fake") for line in stubs.asked()] == [True, False, True, True]


def test_what_goes_wrong_is_one_line_a_hint_and_exit_code_2(
    root: Path, tmp_path: Path, stubs: Stubs
) -> None:
    done = judge(tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (2, "")
    error, hint = done.stderr.splitlines()
    assert error == f"error: {tmp_path / 'nothing'} does not exist"
    assert hint.startswith("hint: ")
    assert "benchmarks/record_truth.py" in hint
    python = str(stubs.add("stub"))
    for status, words in (("2", ""), ("1", "error: accuracy.py ended with status 1\n")):
        done = judge("--out", tmp_path, root, JUDGE_PYTHON=python, STUB_FAILS=status)
        assert (done.returncode, done.stderr) == (2, words)
    done = judge("--out", tmp_path, root, JUDGE_PYTHON=str(tmp_path / "no-python"))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        f"error: {tmp_path / 'no-python'} does not start: No such file or directory",
    )


def test_it_starts_with_nothing_but_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-S", str(SCRIPT.with_name("judge.py")), "--help"],
        env={"PYTHONPATH": str(REPORTS.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: judge.sh [-h] [--out OUT] TRUTH [TRUTH ...]")


@pytest.mark.nightly
def test_a_recording_of_what_is_predicted_is_judged_without_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    variant = replace(
        SPEC.variant,
        model="deeplabv2-mini",
        resolution=Resolution(height=64, width=128),
        classes=19,
    )
    spec, folder = replace(SPEC, variant=variant), tmp_path / "truth" / "card"
    write_machine(folder, FAKE_MACHINE)
    write_trial(folder, truth_trial(spec), requests_here(spec))
    out = tmp_path / "out"
    done = judge("--out", out, folder, JUDGE_PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    title = (out / "accuracy.md").read_text().splitlines()[0]
    assert title.startswith("# FAKE, nothing measured: Accuracy: peak reserved within 0.00%")
    assert title in done.stdout
    assert "; 0 differences\n" in (out / "requests.txt").read_text()
