"""`bsprobe explain` from the command line."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest
import torch
from click.testing import CliRunner

from bsprobe.cli.explain import explain
from bsprobe.cli.report import report as report_command
from bsprobe.engine import explain as engine
from bsprobe.records.errors import FileError
from bsprobe.records.explanations import ExplanationReport
from bsprobe.report.explain import write
from bsprobe.storage.explanationfile import load_explanation, save_explanation
from bsprobe.worker.protocol import Ready
from tests.support import commands
from tests.support.explanations import REPORT, without_drawing


def bsprobe(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return commands.bsprobe(*arguments, cwd=cwd, XDG_CACHE_HOME=str(cwd / "cache"))


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ("--gpu 4O90", ("--gpu", "'4O90'")),
        ("--norm batch,group --out x", ("--out", "2")),
        ("--capacity 20GiB", ("--capacity", "--compute-capability")),
        ("--batch 0", ("'--batch'",)),
        ("--model deeplabv3", ("--model", "'deeplabv3'")),
        ("--device cpu", ("--device cpu", "GPU")),
        ("--device tpu", ("--device", "'tpu'")),
        ("--device cuda --gpu A100", ("--gpu", "--device")),
        pytest.param(
            "--memory-limit 1MiB", ("1 MiB", "CUDA context"), marks=pytest.mark.nightly
        ),  # starts a worker
    ],
)
def test_wrong_input_gets_a_line_and_leaves_nothing(
    arguments: str, facts: tuple[str, ...], tmp_path: Path
) -> None:
    done = bsprobe("explain", *arguments.split(), cwd=tmp_path)
    error, hint = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert (error[:7], hint[:6]) == ("error: ", "hint: ")
    assert [fact for fact in facts if fact not in error] == []
    assert not (tmp_path / "reports").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_an_error(tmp_path: Path) -> None:
    done = bsprobe("explain", "--device", "cuda", cwd=tmp_path)
    assert (done.returncode, "no GPU" in done.stderr) == (2, True)
    assert not (tmp_path / "reports").exists()


@pytest.mark.nightly
def test_a_small_network_is_explained_from_end_to_end(tmp_path: Path) -> None:
    done = bsprobe(
        "explain", "--model=deeplabv2-mini", "--resolution=512x1024", "--memory-limit=1500MiB",
        "--precision=amp-fp16", "--depth=1", cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("Wrote ", "Next: "))]
    assert [line for line in lines if len(line) > 80] == []
    assert "no GPU was named" in " ".join(done.stdout.split())
    (folder,) = (tmp_path / "reports").iterdir()
    assert folder.name == "explain-rtx-3090-1.46gib-deeplabv2-mini-512x1024-amp-fp16-batch"
    assert {path.name for path in folder.iterdir()} == {
        *("explain.md", "explanation.json", "memory.csv", "remedies.csv", "snapshot.pickle"),
        *("step-by-kind.png", "step-by-kind.svg", "step-by-module.png", "step-by-module.svg"),
        "timeline.csv",
    }
    report = load_explanation(folder)
    assert report.explanation.spec.batch_size == report.boundary.largest
    assert report.explanation.peak_bytes <= 1500 * 2**20
    held = commands.rows(folder / "memory.csv")
    assert sum(int(row["size_bytes"]) for row in held) == report.explanation.peak_bytes


class InventedExplaining:
    """Stub engine whose explanation is invented.

    Args:
        is_interrupted: True if Ctrl-C is typed while the remedies are predicted.
    """

    def __init__(self, *, is_interrupted: bool) -> None:
        self.ready = Ready(
            device=REPORT.device, torch="2.11.0", cuda=None, cudnn=None, cpu_threads=1
        )
        self.device = REPORT.device
        self._is_interrupted = is_interrupted

    def __call__(self, *_: object, **__: object) -> Self:
        return self

    def explain(self, *_: object) -> ExplanationReport:
        return replace(REPORT, remedies=(), are_remedies_known=False)

    def with_remedies(self, report: ExplanationReport) -> ExplanationReport:
        # What is known lies in the folder before the remedies are predicted.
        assert load_explanation(Path("out")) == report
        assert Path("out/step-by-kind.png").exists()
        if self._is_interrupted:
            raise KeyboardInterrupt
        return replace(report, remedies=REPORT.remedies, are_remedies_known=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, the current one; pictures are not drawn."""
    monkeypatch.setattr(write, "write_explanation_plots", without_drawing)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_interruption_keeps_the_picture_and_the_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Explaining", InventedExplaining(is_interrupted=True))
    done = CliRunner().invoke(explain, ["--gpu", "RTX 3060 12GB", "--out", "out"])
    assert done.exit_code == 1  # click's; the entry point turns it into 130
    assert "8.25 GiB of 12.0 GiB" in done.stdout
    assert "Wrote out/" in done.stdout
    assert "amp-fp16" not in done.stdout
    assert not load_explanation(folder / "out").are_remedies_known
    text = (folder / "out" / "explain.md").read_text(encoding="utf-8")
    assert ("saved activations" in text, "not predicted" in text) == (True, True)


def test_a_finished_explanation_is_rendered_again_from_its_folder_or_its_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "Explaining", InventedExplaining(is_interrupted=False))
    arguments = ["--gpu", "RTX 3060 12GB", "--out", "out", "--depth", "1"]
    done = CliRunner().invoke(explain, arguments)
    assert (done.exit_code, load_explanation(folder / "out").depth) == (0, 1)
    written = (folder / "out" / "explain.md").read_text(encoding="utf-8")
    assert "Down to depth" not in written
    for given in ("out", "out/explanation.json"):
        again = CliRunner().invoke(report_command, [given, "--out", "again"])
        assert (again.exit_code, again.stdout.splitlines()[-2]) == (0, "Wrote again/")
        assert again.stdout.split("\nWrote")[0].strip() in done.stdout
        assert (folder / "again" / "explain.md").read_text(encoding="utf-8") == written


def test_an_explanation_of_an_earlier_version_is_rendered(folder: Path) -> None:
    """Fields that it lacks have defaults."""
    earlier = replace(REPORT, explanation=replace(REPORT.explanation, line=()))
    save_explanation(earlier, folder)
    file = folder / "explanation.json"
    value = json.loads(file.read_text())
    del value["explanation"]["line"], value["depth"], value["are_remedies_known"]
    file.write_text(json.dumps(value))
    done = CliRunner().invoke(report_command, ["."])
    assert (done.exit_code, "8.25 GiB of 12.0 GiB" in done.stdout) == (0, True)


def test_explanations_are_not_put_into_the_table_of_runs(folder: Path) -> None:
    save_explanation(REPORT, folder)
    done = CliRunner().invoke(report_command, [".", "."])
    assert isinstance(done.exception, FileError)
    assert "run.json" in str(done.exception)
    assert "bsprobe report ." in (done.exception.hint or "")
