"""`bsprobe run --dry-run` has the checks of a run and writes nothing."""

from pathlib import Path

import pytest

from tests.support.commands import bsprobe


def test_a_rehearsal_opens_the_device_and_writes_nothing(tmp_path: Path) -> None:
    words = ("run", "--dry-run", "--gpu=RTX 3090", "--model=deeplabv2-mini", "--out=out")
    done = bsprobe(*words, "--resolution", "1024x512", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (0, []), done.stderr
    first, _, device, *_ = done.stdout.splitlines()
    assert first.startswith("Warning: 1024x512")
    assert "512x1024" in first
    assert "RTX 3090, predicted" in device


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("--model=no.py:net", "no.py does not exist"),
        ("--gpu=A10 --memory-limit=11", "11 B"),
        ("--gpu=A10 --out=full", "--out full"),
        ("--gpu=A10 --out=full/notes.txt/in", "Not a directory"),
        ("--resume --out=full", "full holds no run"),
        ("--gpu=A10 --model=deeplabv2-mini --model-arg=width=3", "num_classes"),
        pytest.param(
            "--gpu=A10 --model=full/few.py:net",
            "NoneType",
            marks=pytest.mark.nightly,  # starts a worker
        ),
    ],
)
def test_a_rehearsal_fails_with_the_error_of_the_run(
    typed: str, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "full" / "few.py").write_text("def net(): ...\n")
    said = [
        bsprobe("run", *typed.split(), *dry, cwd=tmp_path).stderr for dry in ([], ["--dry-run"])
    ]
    assert complaint in said[0]
    assert said[1] == said[0]
