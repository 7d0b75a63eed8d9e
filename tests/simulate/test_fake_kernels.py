"""Cached results of fake kernels equal the first results."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from bsprobe.records.units import Resolution
from bsprobe.records.variants import MemoryFormat, Norm, OptimizerName, Precision, Variant
from bsprobe.simulate.cuda import as_on_cuda
from bsprobe.simulate.timeline import Recording
from bsprobe.simulate.trace import fake_kernels, values
from bsprobe.simulate.trace.fake_kernels import run_fake
from bsprobe.simulate.trace.tracer import StepTracer

aten = torch.ops.aten

Arguments = Callable[[], tuple[Any, ...]]


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Enter a fake mode with an empty cache."""
    monkeypatch.setattr(fake_kernels, "_known", {})
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def _looks(out: Any, arguments: tuple[Any, ...]) -> Any:
    """Describe an output: its metadata, the owners of its storage, and whether it is new."""
    if isinstance(out, list | tuple):
        return type(out), [_looks(each, arguments) for each in out]
    if not isinstance(out, torch.Tensor):
        return type(out), out
    storage = out.untyped_storage()
    owners = [
        place
        for place, each in enumerate(arguments)
        if isinstance(each, torch.Tensor) and each.untyped_storage()._cdata == storage._cdata
    ]
    return {
        "type": type(out),
        "shape": out.shape,
        "stride": out.stride(),
        "offset": out.storage_offset(),
        "dtype": out.dtype,
        "device": out.device,
        "bytes": storage.nbytes(),
        "is an argument": [each is out for each in arguments],
        "storage of": owners,
        "requires grad": out.requires_grad,
    }


def _image() -> torch.Tensor:
    return torch.empty(2, 3, 8, 8).to(memory_format=torch.channels_last)


REMEMBERED: dict[str, tuple[Any, Arguments]] = {
    "a new tensor": (aten.relu.default, lambda: (_image(),)),
    "of another type": (aten._to_copy.default, lambda: (_image().half(),)),
    "several": (
        aten.native_batch_norm.default,
        lambda: (_image(), *torch.empty(4, 3).unbind(), True, 0.1, 1e-5),
    ),
    "some of them none": (
        aten.convolution_backward.default,
        lambda: (
            *(_image(), _image(), torch.empty(3, 3, 1, 1), [0]),
            *([1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]),
        ),
    ),
    "a list": (aten._foreach_add.List, lambda: ([_image(), torch.empty(2)],) * 2),
    "the argument, changed in place": (aten.add_.Tensor, lambda: (_image(), _image())),
    "a view": (aten.slice.Tensor, lambda: (_image(), 1, 1, 3)),
    "a view of a view": (aten.t.default, lambda: (torch.empty(4, 6)[1:, 2:],)),
    "the whole as a view": (aten.detach.default, lambda: (_image(),)),
    "nothing in it": (aten.relu.default, lambda: (torch.empty(0, 3),)),
    "gaps in it": (aten.empty_strided.default, lambda: ((2, 3), (8, 2))),
    "no tensor among the arguments": (aten.zeros.default, lambda: ([2, 3],)),
}


@pytest.mark.parametrize("case", REMEMBERED)
def test_a_cached_result_is_returned_without_running_the_kernel(
    case: str, mode: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, arguments = REMEMBERED[case]
    first = arguments()
    expected = _looks(run_fake(mode, operator, first, {}), first)
    monkeypatch.setattr(fake_kernels, "as_on_cuda", None)  # a second run of the kernel would fail

    again = arguments()
    assert _looks(run_fake(mode, operator, again, {}), again) == expected


NOT_REMEMBERED: dict[str, tuple[Any, Arguments]] = {
    "views that share a storage": (aten.split.Tensor, lambda: (torch.empty(4), 2)),
    "the argument, laid out anew": (aten.t_.default, lambda: (torch.empty(2, 3),)),
    "known values": (aten.add.Tensor, lambda: (torch.tensor(3.0), torch.tensor(4.0))),
    "a number": (aten.sym_size.int, lambda: (torch.empty(2, 3), 1)),
    "complex numbers": (aten.abs.default, lambda: (torch.empty(3, dtype=torch.complex64),)),
}


@pytest.mark.parametrize("case", NOT_REMEMBERED)
def test_a_result_that_cannot_be_made_again_is_not_cached(case: str, mode: FakeTensorMode) -> None:
    operator, arguments = NOT_REMEMBERED[case]
    first, again, plain = arguments(), arguments(), arguments()

    expected = _looks(operator(*plain), plain)
    assert _looks(run_fake(mode, operator, first, {}), first) == expected
    assert _looks(run_fake(mode, operator, again, {}), again) == expected
    assert not any(fake_kernels._known.values())


def test_equal_arguments_of_different_types_have_separate_results(
    mode: FakeTensorMode,
) -> None:
    counts = torch.empty(3, dtype=torch.int64)
    halves = (torch.float16, torch.bfloat16, torch.float16)

    sums = [run_fake(mode, aten.add.Tensor, (counts, one), {}) for one in (1, 1.0, True, 1)]
    cast = [run_fake(mode, aten._to_copy.default, (counts,), {"dtype": each}) for each in halves]

    integer = torch.int64
    assert [each.dtype for each in sums] == [integer, torch.float32, integer, integer]
    assert [each.dtype for each in cast] == list(halves)


def test_results_depend_on_the_current_default_type(mode: FakeTensorMode) -> None:
    dtypes = (torch.float32, torch.float64, torch.float32)
    made = []
    for dtype in dtypes:
        torch.set_default_dtype(dtype)
        try:
            made.append(run_fake(mode, aten.ones.default, ([2],), {}).dtype)
        finally:
            torch.set_default_dtype(torch.float32)

    assert made == list(dtypes)


def test_a_user_supplied_operator_runs_each_time(mode: FakeTensorMode) -> None:
    sizes = iter((2, 3))

    @torch.library.custom_op("bsprobe_test::growing", mutates_args=())
    def growing(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @growing.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return x.new_empty(next(sizes))

    operator = torch.ops.bsprobe_test.growing.default
    results = [run_fake(mode, operator, (torch.empty(1),), {}) for _ in range(2)]

    assert [result.numel() for result in results] == [2, 3]


def test_the_error_of_an_operator_is_raised_again(mode: FakeTensorMode) -> None:
    arguments = (torch.empty(2, 3), torch.empty(2, 3))

    for _ in range(2):
        with pytest.raises(RuntimeError, match="reduction dim"):
            run_fake(mode, aten.mm.default, arguments, {})


PLAIN = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=96))
HALF = replace(PLAIN, precision=Precision.AMP_FP16)
VARIANTS = (
    PLAIN,
    replace(HALF, model="torchvision:deeplabv3_resnet50", memory_format=MemoryFormat.NHWC),
    replace(
        PLAIN,
        model="torchvision:lraspp_mobilenet_v3_large",
        precision=Precision.AMP_BF16,
        norm=Norm.GROUP,
        optimizer=OptimizerName.ADAMW,
    ),
    replace(HALF, model="torchvision:swin_t", classes=1000),
)
DAILY = VARIANTS[:1]
"""A network of convolutions; one with attention takes three times as long."""


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(each, id=each.model, marks=[] if each in DAILY else pytest.mark.nightly)
        for each in VARIANTS
    ],
)
def test_a_recording_is_the_same_with_and_without_the_cache(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_each_time(
        _mode: FakeTensorMode, operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return as_on_cuda(operator, args, operator(*args, **kwargs))

    def record() -> Recording:
        return StepTracer(variant).record(2, 2)

    first, again = record(), record()
    monkeypatch.setattr(values, "run_fake", asked_each_time)
    asked = record()

    # Compared outside `assert`: pytest would take hours to find the difference.
    is_same = first == asked, again == asked
    assert is_same == (True, True)
