"""cuDNN's workspaces: from the real library, without a GPU, and estimates if it is unavailable."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from bsprobe.records.units import MIB
from bsprobe.simulate.cudnn.convolutions import columns_bytes, upper_bound_bytes
from bsprobe.simulate.cudnn.plans import CudnnPlans, UnansweredError
from bsprobe.simulate.cudnn.pointwise import matrix_product_bytes
from bsprobe.simulate.cudnn.workspace import (
    Convolution,
    Direction,
    Workspaces,
    timing_bytes,
)
from tests.support.convolution_examples import DEPTHWISE, PLAIN, convolutions
from tests.support.failing_import import failing_import

ASPP = replace(
    PLAIN,
    dtype="float16",
    input_size=(4, 2048, 65, 129),
    weight_size=(19, 2048, 3, 3),
    padding=(24, 24),
    stride=(1, 1),
    dilation=(24, 24),
)
"""A branch of DeepLabV2's classifier on images of 512x1024."""
SINGLE = replace(ASPP, dtype="float32")


def open_workspaces(capability: tuple[int, int], folder: Path, **settings: Any) -> Workspaces:
    """Open workspaces, or skip the test: the cuDNN of PyTorch 2.6 and 2.7 cannot be queried."""
    workspaces = Workspaces(capability, cache=folder, **settings)
    if workspaces.cudnn_version is None:
        pytest.skip(workspaces.notes[0])
    return workspaces


@pytest.fixture
def hopper(tmp_path: Path) -> Iterator[Workspaces]:
    with open_workspaces((9, 0), tmp_path) as workspaces:
        yield workspaces


def first_mib(workspaces: Workspaces, convolution: Convolution) -> list[int]:
    """The workspace in each direction, in whole MiB."""
    ways = (replace(convolution, direction=each) for each in Direction)
    return [round(workspaces.candidates(each)[0] / MIB) for each in ways]


def test_the_plans_that_pytorch_runs_first(hopper: Workspaces, tmp_path: Path) -> None:
    """The values are those of cuDNN 9.26; other versions may differ by an eighth.

    With cuDNN 9.19 (PyTorch 2.11), the gradient of the weights takes 154 MiB instead of 138.
    """
    turing = open_workspaces((7, 5), tmp_path)
    rel = 0 if hopper.cudnn_version == "9.26.0" else 0.125
    assert first_mib(hopper, ASPP) == pytest.approx([133, 133, 138], rel=rel)
    assert first_mib(hopper, SINGLE) == pytest.approx([266, 266, 284], rel=rel)
    assert first_mib(turing, SINGLE) == [0, 0, 0]


def test_workspaces_grow_with_the_batch(hopper: Workspaces) -> None:
    batches = (1, 2, 4, 8)
    convolutions = [replace(ASPP, input_size=(each, 2048, 65, 129)) for each in batches]
    sizes = [hopper.candidates(each)[0] for each in convolutions]
    # The plan can change with the batch: with cuDNN 9.19, batch 8 takes 7.6 times as much as 1.
    assert sizes == pytest.approx([sizes[0] * batch for batch in batches], rel=0.1)


def test_channels_last_in_half_needs_no_copies_of_the_maps(hopper: Workspaces) -> None:
    contiguous = replace(ASPP, weight_size=(256, 2048, 3, 3))
    last = replace(contiguous, channels_last=True)
    maps_mib = 4 * 2048 * 65 * 129 * 2 / MIB
    assert min(first_mib(hopper, contiguous)[:2]) > maps_mib
    assert max(first_mib(hopper, last)) < maps_mib / 2


def test_without_tf32_fp32_runs_other_plans(hopper: Workspaces, tmp_path: Path) -> None:
    without = open_workspaces((9, 0), tmp_path, allow_tf32=False)
    for direction in Direction:
        half = replace(ASPP, direction=direction)
        single = replace(half, dtype="float32")
        assert without.candidates(half) == hopper.candidates(half)
        assert len(without.candidates(single)) < len(hopper.candidates(single))


def test_deterministic_plans_are_a_subset_of_all(hopper: Workspaces, tmp_path: Path) -> None:
    deterministic = open_workspaces((9, 0), tmp_path, deterministic=True)
    gradient = replace(SINGLE, direction=Direction.WEIGHT_GRADIENT)
    some, every = deterministic.candidates(gradient), hopper.candidates(gradient)
    assert 0 < len(some) < len(every)
    assert set(some) <= set(every)


def test_a_one_dimensional_convolution_runs_with_a_height_of_1(hopper: Workspaces) -> None:
    line = replace(
        PLAIN,
        input_size=(4, 64, 500),
        weight_size=(64, 64, 3),
        padding=(1,),
        stride=(2,),
        dilation=(1,),
    )
    assert hopper.candidates(line) == hopper.candidates(line.widened()) != ()


def test_a_transposed_convolution_runs_the_data_gradient(hopper: Workspaces) -> None:
    gradient = replace(PLAIN, direction=Direction.DATA_GRADIENT)
    transposed = replace(gradient, is_transposed=True)
    assert hopper.candidates(transposed) == hopper.candidates(gradient) != ()


def test_pytorchs_own_kernels_have_one_candidate(tmp_path: Path) -> None:
    turing = Workspaces((7, 5), cache=tmp_path)
    assert turing.candidates(DEPTHWISE) == (0,)
    unfolded = replace(PLAIN, dtype="bfloat16")
    assert turing.candidates(unfolded) == (columns_bytes(unfolded),)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(convolutions())
def test_every_convolution_has_an_answer(hopper: Workspaces, convolution: Convolution) -> None:
    answer = hopper.candidates(convolution)
    assert answer
    assert min(answer) >= 0
    assert hopper.candidates(convolution) == answer


@pytest.mark.nightly
def test_odd_convolutions_neither_crash_nor_write_to_the_terminal(tmp_path: Path) -> None:
    script = """
import sys
from dataclasses import replace
from pathlib import Path
from bsprobe.simulate.cudnn.workspace import Direction, Workspaces
from tests.support.convolution_examples import PLAIN
plain = replace(PLAIN, input_size=(512, 256, 129, 129), weight_size=(256, 256, 3, 3), stride=(1, 1))
odd = [
    plain,
    replace(plain, input_size=(1, 1, 1, 2**31 - 1), weight_size=(1, 1, 1, 1), padding=(0, 0)),
    replace(plain, input_size=(2**40, 3, 2**20, 2**20), weight_size=(7, 3, 1, 1)),
    replace(plain, input_size=(3, 13, 5, 5), weight_size=(7, 13, 31, 31), padding=(15, 15)),
    replace(plain, input_size=(3, 64, 9, 9), weight_size=(128, 2, 3, 3), groups=32),
    replace(plain, input_size=(2, 13, 5, 5), weight_size=(7, 13, 1, 1), padding=(999, 999)),
    replace(plain, input_size=(2, 8, 5, 6, 7), weight_size=(4, 8, 3, 3, 3),
        padding=(1,) * 3, stride=(1,) * 3, dilation=(1,) * 3),
]
for capability in ((7, 0), (7, 5), (8, 7), (9, 0), (10, 3), (12, 1), (13, 0)):
    with Workspaces(capability, cache=Path(sys.argv[1])) as workspaces:
        for each in odd:
            for dtype in ("float32", "float16", "bfloat16"):
                for direction in Direction:
                    workspaces.candidates(replace(each, dtype=dtype, direction=direction))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_answers_are_kept_for_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_workspaces((8, 6), tmp_path) as workspaces:
        answer = workspaces.candidates(SINGLE)
    monkeypatch.setattr(CudnnPlans, "workspaces", lambda *_: pytest.fail("asked again"))
    again = open_workspaces((8, 6), tmp_path)
    assert again.candidates(SINGLE) == answer
    other = open_workspaces((8, 6), tmp_path, allow_tf32=False)
    with pytest.raises(pytest.fail.Exception):
        other.candidates(SINGLE)


def test_a_failure_of_cudnn_is_bounded_and_noted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fail(_: CudnnPlans, convolution: Convolution) -> None:
        asked.append(convolution)
        raise UnansweredError("CUDNN_STATUS_INTERNAL_ERROR")

    workspaces = open_workspaces((8, 6), tmp_path)
    monkeypatch.setattr(CudnnPlans, "workspaces", fail)
    other = replace(ASPP, direction=Direction.DATA_GRADIENT)
    for convolution in (ASPP, ASPP, other):
        assert workspaces.candidates(convolution) == (upper_bound_bytes(convolution),)
    workspaces.save()
    assert asked == [ASPP, other]
    (note,) = workspaces.notes
    assert "estimated from the sizes" in note
    assert "CUDNN_STATUS_INTERNAL_ERROR" in note
    assert list(tmp_path.iterdir()) == []


def fake(version: object) -> SimpleNamespace:
    return SimpleNamespace(backend_version=version, create_device_properties=None)


def failing(error: Exception) -> SimpleNamespace:
    def version() -> int:
        raise error

    return fake(version)


@pytest.mark.parametrize(
    ("module", "capability", "reason"),
    [
        (None, (8, 6), ["nvidia-cudnn-frontend", "not installed"]),
        (SimpleNamespace(), (8, 6), ["nvidia-cudnn-frontend", "too old"]),
        (
            failing(RuntimeError("Unable to find symbol cudnnGetVersion")),
            (8, 6),
            ["cuDNN library", "not installed"],
        ),
        (
            failing(AssertionError("Found 2 libcudnn.so.x")),
            (8, 6),
            ["AssertionError: Found 2 libcudnn.so.x."],
        ),
        (fake(lambda: 92600), (8, 6), ["TypeError: 'NoneType' object is not callable."]),
        (fake(lambda: 90100), (8, 6), ["cuDNN 9.1.0", "9.8.0 or later"]),
        (fake(lambda: 92600), (7, 0), ["cuDNN 9.26.0", "compute capability 7.0."]),
        (fake(lambda: 92600), (5, 2), ["compute capability 5.2"]),
        (fake(lambda: 92600), (13, 0), ["compute capability 13.0"]),
        # Exceptions while the package is imported.
        (AssertionError("two files"), (8, 6), ["does not load: AssertionError: two files."]),
        (AttributeError("no knob"), (8, 6), ["does not load: AttributeError: no knob."]),
        (OSError("cannot open"), (8, 6), ["does not load: cannot open."]),
        (ImportError("undefined"), (8, 6), ["does not load: undefined."]),
        (KeyError(), (8, 6), ["does not load: KeyError."]),
    ],
)
def test_without_cudnn_the_sizes_give_a_bound(
    module: object,
    capability: tuple[int, int],
    reason: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if isinstance(module, Exception):
        failing_import(monkeypatch, "cudnn", module)
    else:
        monkeypatch.setitem(sys.modules, "cudnn", module)  # None makes the import fail
    with Workspaces(capability, cache=tmp_path) as workspaces:
        assert workspaces.cudnn_version is None
        assert workspaces.candidates(ASPP) == (upper_bound_bytes(ASPP),)
        assert workspaces.candidates(DEPTHWISE) == (0,)
    assert list(tmp_path.iterdir()) == []
    (note,) = workspaces.notes
    assert all(words in note for words in ("estimated from the sizes", *reason))


@pytest.mark.parametrize("name", ["pygraph", "heur_mode"])
def test_after_any_exception_of_the_package_the_sizes_give_a_bound(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspaces = open_workspaces((8, 6), tmp_path)
    monkeypatch.delattr(sys.modules["cudnn"], name)
    assert workspaces.candidates(ASPP) == (upper_bound_bytes(ASPP),)
    (note,) = workspaces.notes
    assert re.search(rf"AttributeError: .*{name}", note)


def test_a_card_without_description_uses_the_nearest_older_one_with_a_note(tmp_path: Path) -> None:
    grace = open_workspaces((12, 1), tmp_path / "12.1")
    blackwell = open_workspaces((12, 0), tmp_path / "12.0")
    (note,) = grace.notes
    assert "12.1 are those of 12.0" in note
    assert grace.candidates(ASPP) == blackwell.candidates(ASPP)


def test_an_unsupported_card_uses_the_plans_of_the_oldest_supported_one(
    tmp_path: Path,
) -> None:
    pascal, turing = (open_workspaces(each, tmp_path) for each in ((6, 1), (7, 5)))
    if not pascal.notes:
        pytest.skip("this cuDNN has plans for compute capability 6.1")
    plain = replace(PLAIN, dtype="float32")
    backward = replace(SINGLE, direction=Direction.DATA_GRADIENT)
    matrix = SINGLE.input_size[0] * columns_bytes(SINGLE)

    assert [pascal.candidates(each) for each in (plain, backward)] == [
        turing.candidates(each) for each in (plain, backward)
    ]
    assert pascal.candidates(SINGLE) == (matrix, *turing.candidates(SINGLE))
    # The first of seven workspaces of cuDNN 9.10.2, which supports the card.
    assert matrix == 4 * 2048 * 9 * 65 * 129 * 4
    (note,) = pascal.notes
    assert all(words in note for words in ("compute capability 6.1", "9.10", "plans for 7.5"))


def test_benchmarking_takes_the_largest_plan_of_all() -> None:
    assert timing_bytes((5, 9, 0, 7, 1, 1, 1, 1, 1, 3, 40, 20)) == 40


def test_a_cudnn_other_than_the_one_that_pytorch_loads_is_noted(tmp_path: Path) -> None:
    own = open_workspaces((8, 6), tmp_path)
    other = open_workspaces((8, 6), tmp_path, pytorch_cudnn=80100)
    (note,) = other.notes
    assert own.notes == ()
    assert f"cuDNN {own.cudnn_version}" in note
    assert "PyTorch loads 8.1.0" in note


POINTWISE = replace(
    PLAIN,
    dtype="float16",
    input_size=(5, 256, 65, 129),
    weight_size=(1024, 256, 1, 1),
    padding=(0, 0),
    stride=(1, 1),
    dilation=(1, 1),
)
"""The last convolution of a bottleneck in the third stage of a ResNet."""


@pytest.mark.parametrize(
    ("dtype", "direction", "recorded"),
    [
        ("float16", Direction.FORWARD, 0),
        ("float16", Direction.DATA_GRADIENT, 0),
        ("float16", Direction.WEIGHT_GRADIENT, 5242880),
        ("float32", Direction.WEIGHT_GRADIENT, 5242880),
    ],
)
def test_pointwise_convolutions_take_what_an_h100_recorded(
    hopper: Workspaces, dtype: str, direction: Direction, recorded: int
) -> None:
    convolution = replace(POINTWISE, dtype=dtype, direction=direction)
    assert hopper.candidates(convolution)[0] == recorded
    assert len(hopper.candidates(convolution)) > 1, "the listed plans are missing"


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": (2, 2)},
        {"weight_size": (1024, 256, 3, 3), "padding": (1, 1)},
        {"channels_last": True},
        {"input_size": (5, 256, 1, 1)},
        {"input_size": (5, 1024, 65, 129), "weight_size": (256, 1024, 1, 1)},
        {
            "dtype": "float32",
            "input_size": (5, 2048, 65, 129),
            "weight_size": (512, 2048, 1, 1),
        },
    ],
    ids=["stride", "3x3", "channels last", "pooled", "many channels", "large fp32 weight"],
)
def test_other_convolutions_use_the_listed_plans(
    hopper: Workspaces, changes: dict[str, Any]
) -> None:
    assert matrix_product_bytes(POINTWISE) == 0
    convolution = replace(POINTWISE, **changes)
    assert matrix_product_bytes(convolution) is None
    assert hopper.candidates(convolution)[0] == hopper._asked(convolution)[0]


def test_cards_without_recordings_use_the_listed_plans(tmp_path: Path) -> None:
    ampere = open_workspaces((8, 0), tmp_path)
    gradient = replace(POINTWISE, direction=Direction.WEIGHT_GRADIENT)
    assert ampere.candidates(gradient)[0] > 100 * MIB
