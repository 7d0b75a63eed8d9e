"""The CUDA device and its recorder on the fake GPU.

These tests show only that the code runs. The fake GPU measures bsprobe's own prediction, so
agreement with the prediction is not evidence for it.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bsprobe.devices.simulated import SimulatedDevice
from bsprobe.records.gpus import custom_gpu
from bsprobe.records.trials import TrialSpec, Validation
from bsprobe.records.units import GIB, MIB, Resolution
from bsprobe.records.variants import Precision, Variant
from tests.fake_gpu.fake_card import LATE_BYTES, NAME, TOTAL_BYTES
from tests.support import on_fake_gpu
from tests.support.fake_cuda import needs_fake_cuda

pytestmark = needs_fake_cuda
SMALL, SIZE = Resolution(height=64, width=128), Resolution(height=128, width=256)
VARIANT = Variant(model="deeplabv2-mini", resolution=SMALL, precision=Precision.AMP_FP16)
IMPORTS = """
import json, pickle, torch
from dataclasses import asdict, replace
from pathlib import Path
from bsprobe.devices.cuda import CudaDevice
from bsprobe.storage.codec import to_json
from bsprobe.simulate.explain.reduction import reduced
from bsprobe.records.trials import TrialSpec, Validation
from bsprobe.records.variants import Precision
from tests.devices.test_cuda_on_fake_gpu import SIZE, VARIANT
"""
PROGRAM = f"""{IMPORTS}
spec = TrialSpec(variant=VARIANT, batch_size=2, validation=Validation(resolution=SIZE))
found, phases = dict(), []

def failure(work):
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error).partition(".")[0]]

device = CudaDevice(0, None)
found["info"] = to_json(device.info)
found["measured"] = to_json(device.run_trial(spec, phases.append))
found["phases"], found["budget"] = list(phases), device.budget_bytes
found["clean"] = device.is_clean()
found["too large"] = failure(lambda: device.run_trial(replace(spec, batch_size=90_000), print))
found["clean after it"] = device.is_clean()
recorded = device.record_trial(spec, lambda _: None, Path("snapshot.pickle"))
snapshot = pickle.loads(Path("snapshot.pickle").read_bytes())
history = reduced(dict(segments=[]), snapshot, marks=len(recorded.phases))
found["recorded"] = dict(
    phases=recorded.phases, peak=recorded.measurement.peak_reserved_bytes,
    marks=history.marks, kinds=sorted(set(history.phases)), events=len(history.history["events"]),
)
found["wrong calls"] = [
    failure(lambda: torch.cuda.mem_get_info(0, 0)),
    failure(lambda: torch.cuda.set_per_process_memory_fraction(1)),
    failure(lambda: torch.cuda.Event(timing=True)),
    failure(lambda: torch.cuda.set_device(1)),
]
print(json.dumps(found))
"""
CAPPED = f"""{IMPORTS}
device = CudaDevice(0, {GIB})
found = []
for precision in (Precision.FP32, Precision.FP32, Precision.AMP_FP16):
    spec = TrialSpec(variant=replace(VARIANT, precision=precision), batch_size=5)
    phases = []
    measured = device.run_trial(spec, phases.append)
    found.append((phases[:2], device.budget_bytes, measured.outside_allocator_bytes))
    device.is_clean()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return on_fake_gpu.answer(PROGRAM, folder=tmp_path_factory.mktemp("gpu"))


def test_the_device_has_the_name_and_memory_of_the_fake_gpu(found: Any) -> None:
    info = found["info"]
    assert (info["name"], info["source"]) == (NAME, "measured")
    assert (info["total_bytes"], info["other_processes_bytes"]) == (TOTAL_BYTES, 4 * MIB)
    assert info["capacity_bytes"] == TOTAL_BYTES - 4 * MIB
    (note,) = info["notes"]
    assert "4 MiB" in note


def test_a_trial_runs_whole_on_fake_tensors_and_measures_the_prediction(found: Any) -> None:
    assert found["phases"] == [
        *("opening", "building", "step 1", "step 2", "step 3", "step 4", "validation")
    ]
    predicted = SimulatedDevice(custom_gpu(TOTAL_BYTES, "9.0"), None).run_trial(
        TrialSpec(variant=VARIANT, batch_size=2, validation=Validation(resolution=SIZE)),
        lambda _: None,
    )
    measured = found["measured"]
    assert predicted.validation is not None
    assert predicted.validation.peak is not None
    for part, found_peak, peak in (
        ("first step", measured["first_step"], predicted.first_step),
        ("later steps", measured["steady"], predicted.steady),
        ("validation", measured["validation"]["peak"], predicted.validation.peak),
    ):
        assert found_peak == asdict(peak), part
    assert measured["model"]["parameters"] == predicted.model.parameters
    assert measured["step_seconds"] == pytest.approx([0.1, 0.1, 0.1])
    assert (measured["updates_applied"], measured["steps"]) == (4, 4)
    assert (found["budget"], found["clean"]) == (None, True)


def test_out_of_memory_is_pytorchs_own_error_and_leaves_nothing(found: Any) -> None:
    kind, message = found["too large"]
    assert kind == "OutOfMemoryError"
    assert message.startswith("CUDA out of memory")
    assert found["clean after it"]


def test_a_recorded_trial_has_a_mark_for_each_phase_and_every_part_of_a_step(found: Any) -> None:
    recorded = found["recorded"]
    assert recorded["phases"] == found["phases"]
    assert recorded["peak"] == found["measured"]["steady"]["reserved_bytes"]
    assert len(recorded["marks"]) == len(recorded["phases"])
    assert recorded["kinds"] == ["backward", "forward", "optimizer"]
    assert recorded["events"] > 1000


def test_calls_that_pytorch_refuses_are_refused(found: Any) -> None:
    assert [kind for kind, _ in found["wrong calls"]] == [
        *("TypeError", "TypeError", "TypeError", "AssertionError")
    ]


@pytest.mark.nightly
def test_a_limit_is_applied_when_the_kernels_of_one_step_are_loaded(tmp_path: Path) -> None:
    first, again, other = on_fake_gpu.answer(CAPPED, folder=tmp_path)
    loading, building = ["opening", "loading kernels"], ["opening", "building"]
    assert [first[0], again[0], other[0]] == [loading, building, loading]
    for _, budget, outside in (first, again, other):
        assert budget + outside == GIB
    assert first[1] == again[1] == other[1] + LATE_BYTES
