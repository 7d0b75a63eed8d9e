"""The variables that hide the GPUs and their driver from a predicting process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bsprobe.records.errors import WorkerError
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.worker.process import Worker
from bsprobe.worker.without_gpu import without_gpu


@pytest.mark.skipif(sys.platform != "linux", reason="the driver's library has its Linux name")
@pytest.mark.parametrize("name", ["libcuda.so.1", "libcuda.so"])
def test_a_predicting_process_cannot_load_the_driver(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import ctypes; ctypes.CDLL({name!r})"],
        env={**os.environ, **without_gpu(os.environ)},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("OSError"), "the driver was loaded"
    assert f"no_driver/{name}" in last, "another file was found first"


def test_the_users_libraries_are_still_found() -> None:
    found = without_gpu({"LD_LIBRARY_PATH": "/opt/mine:/opt/yours"})
    assert found["LD_LIBRARY_PATH"].endswith(":/opt/mine:/opt/yours")
    assert found["CUDA_VISIBLE_DEVICES"] == ""
    assert without_gpu({})["LD_LIBRARY_PATH"].endswith("no_driver")


@pytest.mark.parametrize("card", ["H100 80GB", None], ids=["predicts", "measures"])
def test_the_gpu_is_hidden_only_from_a_predicting_worker(
    card: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = tmp_path / "environment.json"
    program = f"import json, os; json.dump(dict(os.environ), open({str(found)!r}, 'w'))"
    request = DeviceRequest(gpu=None if card is None else find_gpu(card))
    with pytest.raises(WorkerError, match="could not start"):
        Worker(request, command=(sys.executable, "-c", program))
    environment = json.loads(found.read_text())
    assert environment["CUDA_VISIBLE_DEVICES"] == ("1" if card is None else "")
    assert ("no_driver" in environment.get("LD_LIBRARY_PATH", "")) == (card is not None)
