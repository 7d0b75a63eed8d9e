"""Recording of a trial, without a GPU: PyTorch's recorder and the trial are replaced."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from bsprobe.devices import cuda
from bsprobe.devices.base import ReportPhase
from bsprobe.devices.cuda import CudaDevice
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.errors import DeviceError
from bsprobe.records.explanations import RecordedTrial
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Measurement, TrialSpec
from bsprobe.worker import child as worker
from bsprobe.worker.protocol import Message, Record, Recorded
from tests.support.builders import DEVICE, VARIANT, measurement

SPEC = TrialSpec(variant=VARIANT, batch_size=2)
SNAPSHOT: dict[str, Any] = {"segments": [], "device_traces": [[], [{"action": "alloc"}]]}


class Calls:
    """A recorder that logs its calls."""

    log: list[str] = []  # noqa: RUF012 - emptied by the fixture

    def start(self) -> dict[str, Any]:
        self.log.append("start")
        return {}

    def mark(self) -> None:
        self.log.append("mark")

    def stop(self) -> dict[str, Any]:
        self.log.append("stop")
        return SNAPSHOT


class Gpu(CudaDevice):
    """The second GPU of a machine, with fixed measurements or a failure in the first step."""

    def __init__(self, *, fails: bool = False) -> None:
        self._device = torch.device("cuda", 1)
        self._info = DEVICE
        self._limit = None
        self._fails = fails

    def run_trial(self, spec: TrialSpec, report: ReportPhase) -> Measurement:
        assert spec == SPEC
        report("building")
        report("step 1")
        Calls.log.append("trial")
        if self._fails:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return measurement()


@pytest.fixture(autouse=True)
def _replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    Calls.log.clear()
    monkeypatch.setattr(cuda, "CudaRecorder", Calls)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)


def recorded(device: Any, path: Path) -> Recorded:
    asked = Record(spec=SPEC, snapshot=str(path))
    sent: list[Message] = []
    worker.record(worker.Session(device=device, request=DeviceRequest(), send=sent.append), asked)
    answer = sent[-1]
    assert isinstance(answer, Recorded)
    return answer


def test_a_recorded_trial_leaves_a_mark_for_each_phase_and_pytorchs_own_snapshot(
    tmp_path: Path,
) -> None:
    path = tmp_path / "recorded.pickle"
    assert recorded(Gpu(), path) == Recorded(
        trial=RecordedTrial(
            spec=SPEC,
            measurement=measurement(),
            phases=("building", "step 1"),
            device_index=1,
            capacity_bytes=DEVICE.capacity_bytes,
        )
    )
    assert Calls.log == ["start", "mark", "mark", "trial", "stop"]
    assert path.read_bytes()[:2] == b"\x80\x04"
    assert pickle.loads(path.read_bytes()) == SNAPSHOT  # noqa: S301 - written a line ago


def test_a_trial_that_fails_ends_the_recording_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recorded.pickle"
    found = recorded(Gpu(fails=True), path)
    assert found.trial is None
    assert found.failure is not None
    assert (found.failure.phase, "out of memory" in found.failure.message) == ("step 1", True)
    assert Calls.log[-1] == "stop"
    assert not path.exists()


def test_a_simulated_gpu_cannot_record(tmp_path: Path) -> None:
    device = SimulatedDevice(find_gpu("RTX 3090"), None)
    with pytest.raises(DeviceError, match="RTX 3090"):
        recorded(device, tmp_path / "recorded.pickle")
