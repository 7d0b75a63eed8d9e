"""The failures that a worker describes, and the end of a worker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from bsprobe.devices.failing import describe_failure
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import MissingPackageError
from bsprobe.records.failures import Certainty, Outcome
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import TrialSpec
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.worker import child as worker
from bsprobe.worker.protocol import OpenDevice, Progress, Ready, RunTrial, decode, encode
from tests.support.commands import ROOT
from tests.support.stub_gpu import StubGpu


def test_a_failure_is_described_without_the_folders_of_this_machine() -> None:
    try:
        torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 5, 8, 8))
    except RuntimeError as error:
        outcome, failure = describe_failure(error, "step 1", DeviceKind.CPU)
    assert (outcome, failure.certainty, failure.phase) == (
        Outcome.FAILED,
        Certainty.CERTAIN,
        "step 1",
    )
    assert failure.message.startswith("RuntimeError: Given groups=1")
    assert failure.traceback is not None
    assert 'File "torch/nn/modules/conv.py"' in failure.traceback
    for folder in (Path(torch.__file__).parents[1], ROOT):
        assert str(folder) not in failure.traceback


def test_a_failure_names_the_last_line_outside_of_packages() -> None:
    layer = torch.nn.Conv2d(3, 4, 3)
    try:
        layer(torch.zeros(1, 5, 8, 8))
    except RuntimeError as error:
        _, failure = describe_failure(error, "step 1", DeviceKind.CPU)
        here = error.__traceback__
    assert here is not None
    assert failure.place == f"tests/worker/test_child.py, line {here.tb_lineno}"
    assert failure.words == f"{failure.message} ({failure.place})"


def test_a_missing_required_package_is_no_verdict_on_the_batch() -> None:
    session = worker.Session(device=StubGpu(), request=DeviceRequest(), send=Mock())
    missing = Mock(side_effect=ModuleNotFoundError("No module named 'torchvision'"))
    with pytest.raises(MissingPackageError, match="torchvision"):
        session.attempt(missing)
    others = Mock(side_effect=ModuleNotFoundError("No module named 'timm'"))
    assert isinstance(session.attempt(others), worker.Failed)


@pytest.fixture
def started() -> Iterator["subprocess.Popen[bytes]"]:
    """A worker that opens its device; it is killed after the test."""
    with subprocess.Popen(
        [sys.executable, "-m", "bsprobe.worker.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        opening = OpenDevice(request=DeviceRequest(device="cpu", memory_limit_bytes=2**33))
        send(process, encode(opening))
        try:
            yield process
        finally:
            process.kill()


def send(process: "subprocess.Popen[bytes]", line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def test_a_worker_in_the_middle_of_a_step_ends_with_its_parent(
    started: "subprocess.Popen[bytes]",
) -> None:
    """A killed parent only closes the input of the worker."""
    variant = Variant(model="deeplabv2-mini", resolution=Resolution(height=512, width=1024))
    spec = TrialSpec(variant=variant, batch_size=16, measured_steps=1000)
    assert started.stdin is not None
    assert started.stdout is not None
    assert isinstance(decode(started.stdout.readline()), Ready)
    send(started, encode(RunTrial(spec=spec)))
    while True:
        said = decode(started.stdout.readline())
        assert isinstance(said, Progress)
        if said.phase.startswith("step"):
            break
    started.stdin.close()
    assert started.wait(timeout=10) == 3


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        pytest.param(b'{"kind": "Ready"}\n', marks=pytest.mark.nightly),
        pytest.param(b"\xff\n", marks=pytest.mark.nightly),
    ],
)
def test_a_worker_that_receives_a_malformed_message_exits_with_a_traceback(
    line: bytes, started: "subprocess.Popen[bytes]"
) -> None:
    assert started.stderr is not None
    send(started, line)
    assert started.wait(timeout=60) == 1
    complaint = started.stderr.read().decode()
    assert "Traceback" in complaint
    assert "bsprobe.storage.codec.MalformedError: " in complaint.splitlines()[-1]
