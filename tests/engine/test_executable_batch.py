"""The decorator: the batch is proven once, kept, and searched again after any change."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import bsprobe
from bsprobe.devices.identity import Identity
from bsprobe.engine import executable_batch
from bsprobe.engine.executable_batch import SearchListener
from bsprobe.records.errors import DeviceError, UsageError
from bsprobe.records.runs import MAX_BATCH, Boundary, DeviceRequest, Run, Settings, StopReason
from bsprobe.records.units import GIB
from bsprobe.worker.protocol import Ready
from tests.support import own_training
from tests.support.builders import DEVICE, probed_run, ran

WORKLOAD = bsprobe.Workload(
    model=own_training.network,
    optimizer=own_training.adam,
    batch=own_training.batch,
    loss=own_training.loss,
)
READY = Ready(device=DEVICE, torch="2.6.0", cuda="12.4", cudnn="90100", cpu_threads=8)


@dataclass
class Gpu:
    """A stub GPU.

    Attributes:
        ready: The answer of its worker.
        run: The run that it makes.
        asked: The settings of each search.
        opened: The number of workers started.
        files: The files that its trials import.
    """

    ready: Ready
    run: Run
    asked: list[Settings]
    opened: int = 0
    files: frozenset[str] = frozenset()

    @contextmanager
    def start_worker(self, _: Settings) -> Iterator["Gpu"]:
        self.opened += 1
        yield self

    def run_on(self, _: "Gpu", settings: Settings, __: Any, listener: SearchListener) -> Run:
        self.asked.append(settings)
        listener.on_trial(ran(8))
        listener.on_result(self.run.results[0])
        return self.run

    def identity(self, _: DeviceRequest) -> Identity:
        """Identify the GPU without opening it."""
        device = self.ready.device
        return Identity(name=device.name, capacity_bytes=device.capacity_bytes)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    (tmp_path / "run").mkdir()
    gpu = Gpu(ready=READY, run=probed_run(tmp_path / "run"), asked=[])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(executable_batch, "start_worker", gpu.start_worker)
    monkeypatch.setattr(executable_batch, "run_on", gpu.run_on)
    monkeypatch.setattr(executable_batch, "identity_of", lambda _: None)
    return gpu


def with_boundary(run: Run, boundary: Boundary) -> Run:
    return replace(run, results=(replace(run.results[0], boundary=boundary), *run.results[1:]))


def train(**options: Any) -> tuple[Any, ...]:
    @bsprobe.find_executable_batch_size(WORKLOAD, **options)
    def function(batch_size: int, /, *rest: int, **named: int) -> tuple[Any, ...]:
        return batch_size, rest, named

    first = function(1, x=2)
    assert function(1, x=2) == first
    return first


def test_the_proven_batch_is_the_first_argument_and_is_searched_once(gpu: Gpu) -> None:
    largest = gpu.run.results[0].boundary.largest

    assert train() == train() == (largest, (1,), {"x": 2})
    assert len(gpu.asked) == 1


def test_one_line_in_the_log_has_the_batch_and_its_origin(
    gpu: Gpu, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="bsprobe"):
        train()
        train()

    found, kept = (record.getMessage() for record in caplog.records)
    boundary = gpu.run.results[0].boundary
    assert found.startswith(
        f"batch {boundary.largest} for tests.support.own_training:network on NVIDIA GeForce "
        f"RTX 4090: it ran, {boundary.first_failure} fails (found "
    )
    assert kept == found.replace("(found", "(kept")


@pytest.mark.parametrize(
    "ready",
    [
        replace(READY, device=replace(DEVICE, capacity_bytes=19 * GIB)),
        replace(READY, device=replace(DEVICE, name="NVIDIA RTX A6000")),
        replace(READY, torch="2.7.0"),
    ],
    ids=["memory", "device", "torch"],
)
def test_the_batch_is_searched_again_on_another_machine(gpu: Gpu, ready: Ready) -> None:
    train()
    gpu.ready = ready
    train()
    assert len(gpu.asked) == 2


def test_the_batch_is_searched_again_for_other_options_and_other_sources(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    train(precision="amp-bf16")
    monkeypatch.setattr(executable_batch, "_sources", lambda _: (("own_training", "0"),))
    train()
    assert len(gpu.asked) == 3


def test_the_file_that_defines_a_part_is_hashed() -> None:
    ((module, text),) = executable_batch._sources(WORKLOAD)

    assert (module, len(text)) == ("tests.support.own_training", 64)


def test_a_device_that_is_identified_without_opening_it_is_not_opened_again(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(executable_batch, "identity_of", gpu.identity)
    monkeypatch.setattr(executable_batch, "_torch_version", lambda: READY.torch)

    first = train()
    assert "batch 8" in capsys.readouterr().err
    assert train() == first

    assert (gpu.opened, len(gpu.asked), capsys.readouterr().err) == (1, 1, "")


@pytest.mark.parametrize(
    "known",
    [
        Identity(name=DEVICE.name, capacity_bytes=DEVICE.capacity_bytes - 1),
        Identity(name="NVIDIA RTX A6000", capacity_bytes=DEVICE.capacity_bytes),
    ],
    ids=["memory", "name"],
)
def test_the_kept_batch_is_not_used_on_another_device(
    known: Identity, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    monkeypatch.setattr(executable_batch, "identity_of", lambda _: known)
    monkeypatch.setattr(executable_batch, "_torch_version", lambda: READY.torch)
    gpu.ready = replace(
        READY, device=replace(DEVICE, name=known.name, capacity_bytes=known.capacity_bytes)
    )
    train()

    assert (gpu.opened, len(gpu.asked)) == (2, 2)


def test_a_search_prints_its_progress(gpu: Gpu, capsys: pytest.CaptureFixture[str]) -> None:
    train()

    began, trial, ended = capsys.readouterr().err.splitlines()
    assert "tests.support.own_training:network" in began
    assert trial.split()[:3] == ["batch", "8", "ok"]
    assert f"largest {gpu.run.results[0].boundary.largest}" in ended


@pytest.mark.parametrize("change", ["other", None], ids=["changed", "gone"])
def test_the_batch_is_searched_again_after_a_change_of_an_imported_file(
    change: str | None, gpu: Gpu, tmp_path: Path
) -> None:
    imported = tmp_path / "imported.py"
    imported.write_text("width = 1")
    gpu.files = frozenset({str(imported)})
    train()
    train()
    assert len(gpu.asked) == 1
    if change is None:
        imported.unlink()
    else:
        imported.write_text(change)

    train()

    assert len(gpu.asked) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"schema_version": 1}',
        b'{"schema_version": 2}',
        b'{"schema_version": 4}',
        b"\xff",
    ],
)
def test_a_damaged_file_is_warned_of_and_replaced(
    content: bytes, gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = train()
    (path,) = (tmp_path / "cache" / "bsprobe").iterdir()
    path.write_bytes(content)

    assert train() == first
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is damaged or has another version; searching the batch again"
    ]
    assert len(gpu.asked) == 2
    train()
    assert len(gpu.asked) == 2


def test_a_batch_of_zero_in_the_file_is_damage(gpu: Gpu, tmp_path: Path) -> None:
    first = train()
    (path,) = (tmp_path / "cache" / "bsprobe").iterdir()
    text = path.read_text()
    path.write_text(text.replace(f'"batch": {first[0]},', '"batch": 0,'))

    assert path.read_text() != text
    assert train() == first
    assert len(gpu.asked) == 2


def test_a_cache_that_cannot_be_written_costs_a_warning(
    gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")

    assert train()[0] == gpu.run.results[0].boundary.largest
    assert "cannot cache the batch" in caplog.text


@pytest.mark.parametrize(
    ("boundary", "is_handed_over"),
    [
        (Boundary(stop=StopReason.MAX_BATCH, largest=MAX_BATCH), True),
        (Boundary(stop=StopReason.KERNEL_LIMIT, largest=5, first_failure=6), True),
        (Boundary(stop=StopReason.TIME, largest=5), False),
        (Boundary(stop=StopReason.NOTHING_FITS, first_failure=1), False),
        (Boundary(stop=StopReason.FAILED, largest=2, detail="a bug"), False),
    ],
    ids=lambda value: str(getattr(value, "stop", value)),
)
def test_only_a_known_boundary_is_passed_to_the_function(
    boundary: Boundary,
    gpu: Gpu,
    is_handed_over: bool,  # noqa: FBT001 - parametrized
) -> None:
    gpu.run = with_boundary(gpu.run, boundary)

    if is_handed_over:
        assert train()[0] == boundary.largest
    else:
        with pytest.raises(DeviceError, match=r"largest batch .* not found"):
            train()


def test_two_variants_are_refused(gpu: Gpu) -> None:
    with pytest.raises(UsageError, match="one variant, not 2"):
        train(precision="fp32,amp-fp16")
    assert gpu.asked == []


def test_the_starting_batch_size_is_the_largest_to_try(gpu: Gpu) -> None:
    train(starting_batch_size=16)

    assert [settings.max_batch for settings in gpu.asked] == [16]
