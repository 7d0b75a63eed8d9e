"""Predictions for fabricated records."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import compare_requests
from benchmarks.truth_prediction import compared, gpu_of, predicted_measurement, sections_of
from benchmarks.truth_records import load_trial
from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.errors import NotComparableError
from bsprobe.records.gpus import find_gpu
from bsprobe.records.units import GIB
from bsprobe.simulate.timeline import Section
from tests.support.fabricated_truth import (
    ELSEWHERE,
    MACHINE,
    SPEC,
    requests_here,
    truth_trial,
    write_machine,
    write_trial,
)

pytestmark = pytest.mark.usefixtures("tiny")


def test_the_card_is_the_catalogues_or_a_custom_one() -> None:
    assert gpu_of(MACHINE) == find_gpu("RTX 4090")
    unknown = replace(MACHINE.device, name="NVIDIA Imaginary 1", total_bytes=30 * GIB)
    card = gpu_of(replace(MACHINE, device=unknown))
    assert (card.total_bytes, card.compute_capability) == (30 * GIB, "8.9")


def test_a_skipped_update_is_not_compared_and_the_next_step_is_the_first() -> None:
    trial = truth_trial()
    assert trial.measurement is not None
    phases = ("opening", "building", "step 1", "step 2", "step 3", "evaluation")
    marks = tuple(zip((0, 0, 5, 9, 12, 20), phases, strict=True))
    first, later = Section.FIRST_STEP, Section.LATER_STEP
    for applied, expected in ((3, (first, later, later)), (2, (None, first, later))):
        measured = replace(trial.measurement, steps=3, updates_applied=applied)
        found = sections_of(replace(trial, marks=marks, measurement=measured))
        assert found == (
            (0, Section.SETUP),
            *zip((5, 9, 12), expected, strict=True),
            (20, Section.VALIDATION),
        )


def test_a_record_of_what_is_predicted_has_no_differences(tmp_path: Path) -> None:
    requests = requests_here()
    path = write_trial(tmp_path, truth_trial(), requests)
    found = compared(path, load_trial(path), MACHINE)
    assert (found.differences, found.matched) == ((), len(requests))
    assert found.workspaces_equal == found.convolutions == 10


def test_a_prediction_obeys_the_recorded_allocator_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "untouched")
    device = SimulatedDevice(gpu_of(MACHINE), None)
    trial = truth_trial(replace(SPEC, batch_size=2000))  # tensors larger than a segment of 20 MiB
    settings = "expandable_segments:True"
    plain = predicted_measurement(trial, device)
    expandable = predicted_measurement(replace(trial, allocator_settings=settings), device)
    assert plain.peak_reserved_bytes != expandable.peak_reserved_bytes
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "untouched"


def test_the_command_names_differences_and_where_they_stand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = list(requests_here())
    number = next(n for n, each in enumerate(requests) if "upsample_bilinear2d_b" in each.place)
    requests[number] = replace(requests[number], size_bytes=512 * 77)
    folder = tmp_path / "card"
    write_machine(folder)
    compare_requests.main([str(write_trial(folder, truth_trial(), requests))])
    out = capsys.readouterr().out.splitlines()
    assert "10 of 10 workspaces; 1 differences" in out[0]
    assert "another size" in out[1]
    assert "upsample_bilinear2d_backward in the loss | 38 KiB (39424 B) somewhere" in out[1]
    assert out[-2:] == [
        "1 histories; differences by place:",
        "       1  another size: backward: upsample_bilinear2d_backward",
    ]


def test_the_command_names_every_difference_where_all_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = [replace(each, size_bytes=each.size_bytes + 512) for each in requests_here()]
    write_machine(tmp_path / "card")
    write_trial(tmp_path / "card", truth_trial(), requests)
    shown = []
    for limit in ("3", "all"):
        compare_requests.main(["--truth", str(tmp_path), "--show", limit])
        out = capsys.readouterr().out.splitlines()
        shown.append(sum(text.startswith("  ") and " | " in text for text in out))
    count = int(out[0].rpartition("; ")[2].removesuffix(" differences"))
    assert shown == [3, count]
    assert count >= len(requests)


def test_the_command_compares_nothing_by_other_versions_than_the_recorded_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_machine(tmp_path / "card", replace(MACHINE, environment=ELSEWHERE))
    path = write_trial(tmp_path / "card", truth_trial(), requests_here())
    for given in ([str(path)], ["--truth", str(tmp_path)]):
        with pytest.raises(NotComparableError, match=r"instead of 9\.1\.0") as caught:
            compare_requests.main(given)
        assert (caught.value.exit_code, capsys.readouterr().out) == (2, "")
        assert "bash benchmarks/judge.sh" in (caught.value.hint or "")
