"""The examples of docs/api.md, run unchanged on this machine's CPU."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, python
from tests.support.pages import blocks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the CPU device is Linux's")

PAGE = ROOT / "docs" / "api.md"


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    cache = str(cwd / "cache")
    done = python(*arguments, cwd=cwd, XDG_CACHE_HOME=cache, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.nightly
def test_the_script_probes_predicts_recommends_and_trains(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("\n\n".join(blocks(PAGE, "python")), encoding="utf-8")

    done = run("train.py", cwd=tmp_path)

    measured, predicted, plan, trained = done.stdout.splitlines()
    largest = re.fullmatch(r"largest (\d+) exact True", measured)
    assert largest is not None
    assert predicted == "[64, 64] predicted"
    assert plan == f"24 x 1 {1e-3 * 3**0.5}"
    # A separate search, with a result close to that of the first one.
    batch = int(trained.removeprefix("trained with "))
    assert abs(batch - int(largest[1])) <= 1
    began, *trials, ended, line = done.stderr.splitlines()
    assert began.startswith("bsprobe: finding the largest batch for train.py:Net")
    assert ended == f"bsprobe: largest {batch}"
    assert all(trial.startswith("  batch ") for trial in trials)
    assert re.match(rf"INFO:bsprobe:batch {batch} for train.py:Net on .*: it ran, ", line)


@pytest.mark.nightly
def test_the_command_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("\n\n".join(blocks(PAGE, "python")), encoding="utf-8")
    ((command,),) = (block.splitlines() for block in blocks(PAGE, "sh"))

    done = run("-m", *shlex.split(command), cwd=tmp_path)

    assert "train.py:Net · batches of train.py:batch · loss train.py:loss" in done.stdout
    assert "-> at least 64 (--max-batch)" in " ".join(done.stdout.split())
