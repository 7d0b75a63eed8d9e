"""`bsprobe run --dry-run`: all that the run checks, and nothing that it writes."""

from pathlib import Path

import pytest

from tests.support.commands import bsprobe


def test_a_rehearsal_opens_the_device_and_writes_nothing(tmp_path: Path) -> None:
    words = ("run", "--dry-run", "--gpu=RTX 3090", "--model=deeplabv2-mini", "--out=out")
    done = bsprobe(*words, "--resolution", "1024x512", cwd=tmp_path)
    assert (done.returncode, list(tmp_path.iterdir())) == (0, []), done.stderr
    first, _, device, *_ = done.stdout.splitlines()
    assert first == (
        "Warning: 1024x512 is 1024 high x 512 wide, a portrait image; if you meant width first, "
        "write 512x1024"
    )
    assert device == "on RTX 3090, predicted"


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("--model=no.py:net", "no.py does not exist"),
        ("--gpu=A10 --memory-limit=11", "a memory limit of 11 B"),
        ("--gpu=A10 --out=full", "--out full exists and is not an empty folder"),
        ("--gpu=A10 --out=full/notes.txt/in", "Not a directory"),
        ("--resume --out=full", "full holds no run to go on with"),
        ("--gpu=A10 --model=deeplabv2-mini --model-arg=width=3", "takes num_classes alone"),
        pytest.param(
            "--gpu=A10 --model=full/few.py:net",
            "returned a NoneType",
            marks=pytest.mark.slow,  # the worker says so
        ),
    ],
)
def test_a_rehearsal_is_refused_what_the_run_would_be(
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
