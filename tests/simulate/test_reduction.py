"""Reduction of PyTorch's snapshots to histories."""

import inspect
from typing import Any

import pytest
import torch

from bsprobe.records.units import MIB
from bsprobe.simulate.explain import reduction
from bsprobe.simulate.explain.reduction import UnknownEventError, phase_of, place_of, reduced
from bsprobe.simulate.timeline import Phase
from bsprobe.training.step import training_step
from tests.support.snapshots import (
    AFTER,
    BASE,
    CONVOLUTION,
    EMPTY,
    EVENTS,
    MARK,
    SETTINGS,
    TRACE,
    entry,
)

CONVOLUTION_PLACE = "torch/nn/modules/conv.py:548 forward < nets.py:7 forward"


def traced(*entries: dict[str, Any]) -> dict[str, Any]:
    return {**EMPTY, "device_traces": [list(entries)]}


def test_a_snapshot_becomes_a_history_of_numbers_and_places() -> None:
    found = reduced(EMPTY, AFTER, marks=2)
    assert found.history == {
        "format": 1,
        "settings": SETTINGS,
        "expandable": False,
        "initial": {"segments": [], "blocks": []},
        "events": EVENTS,
        "release_runs": [[5, "empty_cache"]],
        "cap_bounds_mib": None,
        "final_blocks": [
            [BASE, 1024, 1],
            [BASE + 1024, 512, 1],
            [BASE + 1536, 2 * MIB - 1536, 0],
        ],
        "final_reserved": 2 * MIB,
    }
    assert found.marks == (0, 2)
    assert found.places == (CONVOLUTION_PLACE, "")
    assert found.place_of == (0, 1, 0)


def test_blocks_from_before_the_recording_are_kept() -> None:
    found = reduced(AFTER, {**AFTER, "device_traces": [[]]})
    assert found.history["initial"] == {
        "segments": [[BASE, 2 * MIB, 0, 1]],
        "blocks": [[BASE, 1024, 600, 0], [BASE + 1024, 512, 512, 0]],
    }


def test_other_devices_are_left_out() -> None:
    both = {**AFTER, "device_traces": [[entry("alloc", 1, 1)], TRACE]}
    both["segments"] = [{**AFTER["segments"][0], "device": 1}]
    assert reduced(EMPTY, both, index=1, marks=2) == reduced(EMPTY, AFTER, marks=2)
    assert reduced(EMPTY, both, index=0).history["final_blocks"] == []


def test_the_mark_of_the_last_snapshot_may_be_there_or_not() -> None:
    assert reduced(EMPTY, traced(MARK, entry("alloc", 1, 1), MARK), marks=1).marks == (0,)
    with pytest.raises(UnknownEventError, match="has 1 of 2 marks"):
        reduced(EMPTY, traced(entry("alloc", 1, 1), MARK), marks=2)


def test_an_event_that_is_not_known_is_refused() -> None:
    with pytest.raises(UnknownEventError, match="'teleport'"):
        reduced(EMPTY, traced(entry("teleport", 1, 1)))


def test_expandable_segments_and_a_failure_have_their_codes() -> None:
    failure = {"action": "oom", "device_free": 77, "size": 99, "stream": 3, "time_us": 1}
    kept = entry("segment_map", 1, 2), failure, entry("segment_unmap", 1, 2)
    after = traced(entry("annotate", 1, 2), *kept)  # an annotation is left out
    after["allocator_settings"] = {"expandable_segments": True}
    found = reduced(EMPTY, after).history
    assert found["events"] == [["M", 1, 2, 0], ["o", 77, 99, 3], ["U", 1, 2, 0]]
    assert found["expandable"]


def test_released_segments_are_a_retrys_only_if_there_was_one() -> None:
    flushed = [entry("segment_free", 1, 2), entry("segment_free", 5, 2)]
    new = [entry("segment_alloc", 9, 4), entry("alloc", 9, 4)]
    after = traced(*flushed, *new, entry("segment_free", 9, 4), entry("alloc", 1, 1))
    causes = {retries: reduced(EMPTY, after, retries=retries) for retries in (0, 1)}
    assert causes[0].history["release_runs"] == [[0, "empty_cache"], [4, "empty_cache"]]
    assert causes[1].history["release_runs"] == [[0, "oom_retry"], [4, "empty_cache"]]


def test_a_place_is_a_function_of_pytorch_and_its_caller() -> None:
    assert place_of(CONVOLUTION) == CONVOLUTION_PLACE
    assert place_of(CONVOLUTION[1:]) == "nets.py:7 forward"
    assert place_of([]) == ""
    here = place_of([frame(reduction.__file__, "f")])  # relative to the root of this checkout
    assert here == "bsprobe/simulate/explain/reduction.py:1 f"


def frame(filename: str, name: str) -> dict[str, Any]:
    return {"filename": filename, "line": 1, "name": name}


STEP = ("bsprobe/training/step.py", "training_step")


@pytest.mark.parametrize(
    ("functions", "phase"),
    [
        ([("torch/nn/modules/conv.py", "forward"), STEP], Phase.FORWARD),
        ([("torch/amp/grad_scaler.py", "scale"), STEP], Phase.FORWARD),
        ([("torch/amp/grad_scaler.py", "update"), STEP], Phase.OPTIMIZER),
        ([("torch/optim/sgd.py", "step"), STEP], Phase.OPTIMIZER),
        ([], Phase.BACKWARD),
        ([("torch/utils/checkpoint.py", "backward")], Phase.BACKWARD),
    ],
)
def test_the_phase_of_a_step_is_told_by_the_functions_that_run(
    functions: list[tuple[str, str]], phase: Phase
) -> None:
    assert phase_of([frame(f"/x/site-packages/{file}", name) for file, name in functions]) is phase


def test_the_step_function_has_the_expected_path() -> None:
    code = inspect.unwrap(training_step).__code__
    assert phase_of([frame(code.co_filename, code.co_name)]) is Phase.FORWARD


def test_pytorch_has_the_options_that_start_a_recording() -> None:
    words = inspect.signature(torch.cuda.memory._record_memory_history).parameters
    assert {"enabled", "context", "stacks"} <= words.keys()
    assert "all" in inspect.getsource(torch.cuda.memory._record_memory_history)
