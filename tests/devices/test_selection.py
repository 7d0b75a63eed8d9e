"""The device that a request opens, and errors if it is absent."""

import pytest
import torch

from bsprobe.devices import cuda
from bsprobe.devices.selection import open_device, torch_device
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.gpus import find_gpu
from bsprobe.records.runs import DeviceRequest
from bsprobe.records.trials import Source


def test_an_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as refused:
        open_device(DeviceRequest(device="gpu"))
    assert "--device: 'gpu'" in str(refused.value)
    assert "cpu, cuda or cuda:N" in (refused.value.hint or "")


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_without_the_requested_gpu_the_hint_names_commands_that_work(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "gpu_is_present", lambda: False)
    with pytest.raises(DeviceError) as refused:
        open_device(DeviceRequest(device=device))
    assert "no GPU" in str(refused.value)
    assert "bsprobe run --gpu 'RTX 3090'" in (refused.value.hint or "")
    assert "bsprobe run --device cpu --memory-limit" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("asked", "name"),
    [(None, "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")],
)
def test_the_torch_device_of_a_gpu_has_an_index(asked: str | None, name: str) -> None:
    assert torch_device(DeviceRequest(device=asked)) == torch.device(name)


def test_without_a_gpu_and_a_request_a_card_is_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "gpu_is_present", lambda: False)
    info = open_device(DeviceRequest()).info
    found = (info.name, info.kind, info.source, info.is_assumed)
    assert found == ("RTX 3090", "simulated", Source.PREDICTED, True)


def test_a_card_that_is_named_is_predicted_for_even_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "gpu_is_present", lambda: True)
    info = open_device(DeviceRequest(gpu=find_gpu("RTX 4090"))).info
    assert (info.name, info.source, info.is_assumed) == ("RTX 4090", Source.PREDICTED, False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a usable GPU")
def test_a_gpu_that_torch_cannot_use_is_an_error_with_torchs_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "gpu_is_present", lambda: True)
    with pytest.raises(DeviceError, match=r"PyTorch .* GPU: .+") as refused:
        open_device(DeviceRequest())
    assert "install a driver" in (refused.value.hint or "")
