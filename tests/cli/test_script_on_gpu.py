"""A training script on a GPU, seen from inside and under a memory limit."""

import sys
from pathlib import Path

import pytest

from bsprobe.records.scripts import MemoryLimit, View
from bsprobe.records.units import GIB
from bsprobe.storage.runfile import load_run
from tests.support.commands import ROOT, bsprobe

pytestmark = pytest.mark.gpu
TRAIN = (sys.executable, str(ROOT / "docs" / "examples" / "train.py"), "--batch-size", "{batch}")


def test_a_script_on_a_gpu_keeps_to_its_limit(tmp_path: Path) -> None:
    words = ("run", "--memory-limit=2GiB", "--max-batch=8", "--out=out", "--", *TRAIN)
    done = bsprobe(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for trial in load_run(tmp_path / "out").trials:
        assert trial.script is not None
        assert trial.script.view is View.INSIDE
        assert trial.script.limit in (MemoryLimit.ALLOCATOR_SETTING, MemoryLimit.FRACTION)
        assert trial.measurement is not None
        assert trial.measurement.peak_reserved_bytes is not None
        assert 0 < trial.measurement.peak_bytes < 2 * GIB
