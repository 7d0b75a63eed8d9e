"""CPU tensors under CUDA's rules, compared with fake CUDA tensors; memory inside kernels."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_impls import op_implementations_dict
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.units import Resolution
from bsprobe.records.variants import (
    AXES,
    Checkpointing,
    MemoryFormat,
    Precision,
    Variant,
)
from bsprobe.simulate.cuda import Held, Inside, cuda_dispatch, effects
from bsprobe.simulate.cuda.autocast import (
    FP32,
    FP32_OUTPUT,
    FP32_OUTPUT_OVERLOADS,
    INTERPOLATION,
    LOWER_PRECISION,
    WIDEST,
    operators_cast,
)
from bsprobe.simulate.cuda.scratch import KERNELS, aten
from bsprobe.simulate.cudnn.convolutions import Direction
from bsprobe.training.models.norms import LAYERS
from tests.support.autocast_examples import ARGUMENTS, CPU_ALONE, Arguments
from tests.support.convolution_examples import PLAIN
from tests.support.fake_cuda import (
    Dispatched,
    autocast,
    forward_operators,
    needs_fake_cuda,
    rules_of,
)
from tests.support.pairwise import pairwise

FP16, BF16 = torch.float16, torch.bfloat16
OTHER_NETS = [
    f"torchvision:{name}"
    for name in (
        *("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet101", "deeplabv3_resnet50"),
        *("fcn_resnet101", "fcn_resnet50", "lraspp_mobilenet_v3_large"),
    )
]
TABLES = {*LOWER_PRECISION, *FP32, *INTERPOLATION, *FP32_OUTPUT, *FP32_OUTPUT_OVERLOADS, *WIDEST}
ONLY_ON_CUDA = {
    *("_cudnn_rnn", "cudnn_convolution", "cudnn_convolution_transpose"),
    *("_scaled_dot_product_flash_attention", "_thnn_fused_gru_cell", "_thnn_fused_lstm_cell"),
}
"""Operators that nothing calls on CPU tensors under autocast."""
WITHOUT_EXAMPLE = ONLY_ON_CUDA | {
    "binary_cross_entropy",  # an error under CUDA's autocast
    "linalg_matrix_sqrth",  # new; the policies' lists do not name it
}
UNFAKED_CONVOLUTIONS = {
    operator.name().removeprefix("aten::")
    for operator in (aten._convolution.default, aten._convolution.deprecated)
    if operator not in op_implementations_dict
}
"""Convolutions without a fake kernel for CUDA tensors in this PyTorch, such as 2.11. Networks call
`convolution`, which calls them inside its own kernel."""


@pytest.fixture(autouse=True)
def _fake() -> Iterator[None]:
    """Make all tensors of a test fake tensors, without data."""
    with FakeTensorMode():
        yield


# The forward pass of whole networks.


DEEPLABV2 = Variant(model="deeplabv2-resnet50", resolution=Resolution(height=64, width=128))
CHECKPOINTED = [
    replace(DEEPLABV2, model="deeplabv2-mini", **values)
    for values in pairwise({"norm": LAYERS, "precision": Precision, "checkpointing": Checkpointing})
]
"""Every norm in every precision, either with or without checkpointing."""
NETWORKS = [
    *CHECKPOINTED,
    # Not in bfloat16: without a GPU, `supportsBFloat16ConvolutionWithCuDNNv8` is false for fake
    # CUDA tensors, and PyTorch runs a kernel whose result has another layout.
    *(
        replace(DEEPLABV2, model=model, precision=each, memory_format=MemoryFormat.NHWC)
        for model in (DEEPLABV2.model, "torchvision:lraspp_mobilenet_v3_large")
        for each in (Precision.FP32, Precision.AMP_FP16)
    ),
    *(replace(DEEPLABV2, model=model, precision=Precision.AMP_FP16) for model in OTHER_NETS),
]
NIGHTLY_NETWORKS = [
    *(
        replace(DEEPLABV2, model=model, precision=each)
        for model in OTHER_NETS
        for each in (Precision.FP32, Precision.AMP_BF16)
    ),
    *(
        replace(DEEPLABV2, norm=norm, precision=precision, checkpointing=checkpointing)
        for norm, precision, checkpointing in itertools.product(LAYERS, Precision, Checkpointing)
    ),
]


@needs_fake_cuda
@pytest.mark.parametrize(
    "variant",
    [
        *NETWORKS,
        *(pytest.param(each, marks=pytest.mark.nightly) for each in NIGHTLY_NETWORKS),
    ],
    ids=lambda variant: "-".join((variant.model, *(getattr(variant, a.field) for a in AXES))),
)
def test_a_network_runs_the_operators_that_it_runs_on_cuda(variant: Variant) -> None:
    assert forward_operators(variant, "cpu") == forward_operators(variant, "cuda")


# Autocast, operator by operator.


def test_every_operator_that_cuda_casts_is_in_a_table_or_cast_alike_on_the_cpu() -> None:
    # Without the overloads for named dimensions, which newer versions do not have.
    on_cuda = {name for name in operators_cast("AutocastCUDA") if "name" not in name.lower()}
    cast_by_pytorch = operators_cast("AutocastCPU") | ONLY_ON_CUDA

    assert on_cuda - cast_by_pytorch <= TABLES
    assert TABLES - on_cuda <= {"rms_norm"}  # cast from 2.12 on
    assert on_cuda - set(ARGUMENTS) <= WITHOUT_EXAMPLE


def result_types(
    name: str, arguments: Arguments, device: str, dtypes: tuple[torch.dtype, ...], amp: torch.dtype
) -> list[tuple[torch.dtype, torch.Size]]:
    """Dtypes and shapes of an operator's results under autocast; its tensors cycle `dtypes`."""
    packet, _, overload = name.partition(".")
    operator = getattr(getattr(aten, packet), overload or "default")
    turns = itertools.cycle(dtypes)
    with torch.device(device):
        given = arguments(lambda *shape: torch.ones(shape, dtype=next(turns)))
        with rules_of(device), autocast(device, amp):
            out = operator(*given)
    return [(each.dtype, each.shape) for each in (out if isinstance(out, tuple) else (out,))]


FULL, DOUBLE = torch.float32, torch.float64
CASES = [
    *((dtypes, FP16) for dtypes in ((FULL,), (FP16,), (FULL, FP16), (FP16, FULL), (DOUBLE,))),
    ((FULL, BF16), BF16),
]


@needs_fake_cuda
@pytest.mark.parametrize("name", [*sorted(ARGUMENTS), *sorted(CPU_ALONE)])
@pytest.mark.filterwarnings("ignore:.*deprecated:UserWarning")
def test_an_operator_returns_the_same_dtype_as_on_cuda(name: str) -> None:
    if name == "gru_cell" and torch.__version__ < "2.15":
        pytest.skip("CUDA's fused GRU cell has no fake kernel before 2.15")
    if name in UNFAKED_CONVOLUTIONS:
        pytest.skip("no fake kernel in this PyTorch if called directly")
    case = (name, {**ARGUMENTS, **CPU_ALONE}[name])
    for dtypes in CASES:
        if name == "linalg_inv" and dtypes[0][0] is FP16:
            continue  # it does not support half precision
        assert result_types(*case, "cpu", *dtypes) == result_types(*case, "cuda", *dtypes)


# When the rules are active.


def in_force() -> tuple[object, ...]:
    """Dtypes under autocast and operators that differ between the CPU's and CUDA's rules."""
    half = torch.ones((1, 4, 4), dtype=FP16)
    maps = torch.ones((2, 4, 4, 4), requires_grad=True)
    with torch.autocast("cpu", dtype=FP16):
        dtypes = (
            F.group_norm(half, 2).dtype,
            half.sum().dtype,
            torch.norm(half).dtype,
            torch.mv(half[0].float(), half[0, 0].float()).dtype,
            torch.atan2(half, half.double()).dtype,
        )
    norm, dropout = nn.BatchNorm2d(4)(maps), F.dropout(maps)
    return (*dtypes, type(norm.grad_fn).__name__, type(dropout.grad_fn).__name__)


ON_CUDA = (
    *(torch.float32, torch.float32, torch.float32, FP16, torch.float64),
    *("CudnnBatchNormBackward0", "NativeDropoutBackward0"),
)


def test_a_positional_dtype_is_respected() -> None:
    x = torch.randn(2, 3).bfloat16()

    with cuda_dispatch(), torch.autocast("cpu", dtype=torch.bfloat16):
        dtypes = [
            aten.softmax.int(x, 1, None).dtype,
            aten.softmax.int(x, 1, torch.float64).dtype,
            F.log_softmax(x, 1).dtype,
        ]

    assert dtypes == [torch.float32, torch.float64, torch.float32]


def test_cudas_rules_hold_inside_and_leave_nothing_behind(
    recwarn: pytest.WarningsRecorder,
) -> None:
    before = in_force()

    with cuda_dispatch():
        inside = in_force()

    assert inside == ON_CUDA
    assert not {*before[:4]} & {*inside[5:]}
    assert in_force() == before != ON_CUDA
    assert list(recwarn) == []


def test_cudas_rules_end_with_an_exception() -> None:
    before = in_force()

    with pytest.raises(ZeroDivisionError), cuda_dispatch():
        raise ZeroDivisionError

    assert in_force() == before


@pytest.mark.skipif(
    torch.__version__ < "2.8", reason="in older PyTorch only one library can override a kernel"
)
def test_cudas_rules_may_be_nested() -> None:
    before = in_force()

    with cuda_dispatch():
        with cuda_dispatch():
            assert in_force() == ON_CUDA
        assert in_force() == ON_CUDA

    assert in_force() == before


# Memory inside kernels.


@dataclass(frozen=True, slots=True)
class Output:
    """A tensor that an operator allocates."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


Effect = Inside | Held


def effects_of(
    program: Callable[..., torch.Tensor], *inputs: torch.Tensor
) -> tuple[list[Output | Effect], list[Output | Effect]]:
    """Effects of the operators with a rule, in a program and in its backward pass."""
    passes: tuple[list[Output | Effect], list[Output | Effect]] = ([], [])

    def keep(seen: list[Output | Effect]) -> Dispatched:
        def watch(operator: Any, args: tuple[Any, ...], out: Any) -> None:
            for each in effects(operator, args, out) if operator in KERNELS else ():
                if isinstance(each, torch.Tensor):
                    seen.append(Output(tuple(each.shape), each.dtype))
                else:
                    seen.append(each)

        return Dispatched(watch)

    with cuda_dispatch():
        with keep(passes[0]):
            out = program(*inputs)
        if out.requires_grad:
            with keep(passes[1]):
                out.backward(torch.ones_like(out))
    return passes


def learnt(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, requires_grad=True)


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous(memory_format=torch.channels_last).requires_grad_()


CONV = replace(
    PLAIN,
    input_size=(2, 8, 16, 16),
    weight_size=(4, 8, 3, 3),
    padding=(2, 2),
    stride=(1, 1),
    dilation=(2, 2),
)
X, W, Y = Output((2, 8, 16, 16)), Output((4, 8, 3, 3)), Output((2, 4, 16, 16))
X_BYTES, W_BYTES, Y_BYTES = 4 * 2 * 8 * 256, 4 * 4 * 8 * 9, 4 * 2 * 4 * 256


def of(*sizes: int, **changes: Any) -> Inside:
    """Temporary memory of `dilated`, with changes to its convolution."""
    return Inside(sizes=sizes, convolution=replace(CONV, **changes))


FORWARD = of()
OF_INPUT, OF_WEIGHT = of(direction=Direction.DATA_GRADIENT), of(direction=Direction.WEIGHT_GRADIENT)


def dilated(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    return F.conv2d(x, weight, bias, padding=2, dilation=2)


@pytest.mark.parametrize(
    ("learns", "expected"),
    [
        ((True, True, True), [X, OF_INPUT, W, OF_WEIGHT, Output((4,))]),
        ((False, True, True), [W, OF_WEIGHT, Output((4,))]),
        ((True, False, True), [X, OF_INPUT, Output((4,))]),
        ((True, True, False), [X, OF_INPUT, W, OF_WEIGHT]),
        ((False, False, True), [Output((4,))]),
        ((True, False, False), [X, OF_INPUT]),
        ((False, True, False), [W, OF_WEIGHT]),
    ],
)
def test_a_convolution_and_each_required_gradient_take_an_output_and_a_workspace(
    learns: tuple[bool, bool, bool], expected: list[Output | Inside | Held]
) -> None:
    inputs = [torch.empty(2, 8, 16, 16), torch.empty(4, 8, 3, 3), torch.empty(4)]
    for tensor, wanted in zip(inputs, learns, strict=True):
        tensor.requires_grad_(wanted)

    assert effects_of(dilated, *inputs) == ([Y, FORWARD], expected)


@pytest.mark.parametrize(
    ("dtype", "inside"),
    [(FP16, of(dtype="float16")), (torch.float64, Inside())],  # fp64 is not described
)
def test_a_convolution_is_described_in_its_type(dtype: torch.dtype, inside: Inside) -> None:
    inputs = (learnt(*size, dtype=dtype) for size in (CONV.input_size, CONV.weight_size))

    forward, _ = effects_of(dilated, *inputs)

    assert forward == [Output((2, 4, 16, 16), dtype), inside]


def test_channels_last_spreads_from_either_operand_and_the_other_is_copied() -> None:
    x, weight = learnt(2, 8, 16, 16), learnt(4, 8, 3, 3)
    last_x, last_weight = channels_last(x), channels_last(weight)

    for inputs, copied in (
        ((last_x, last_weight), ()),
        ((last_x, weight), (W_BYTES,)),
        ((x, last_weight), (X_BYTES,)),
    ):
        assert effects_of(dilated, *inputs)[0] == [Y, of(*copied, channels_last=True)]


def test_the_backward_pass_of_mixed_layouts_copies_operands_in_another_layout() -> None:
    _, backward = effects_of(
        lambda x, weight: dilated(x, weight).contiguous(),  # makes the gradient contiguous
        channels_last(learnt(2, 8, 16, 16)),
        learnt(4, 8, 3, 3),
    )

    assert backward == [
        Held(sizes=(Y_BYTES,)),
        X,
        of(W_BYTES, channels_last=True, direction=Direction.DATA_GRADIENT),
        W,
        of(channels_last=True, direction=Direction.WEIGHT_GRADIENT),
        Held(sizes=()),
    ]


def test_a_transposed_convolution_is_an_ordinary_ones_data_gradient() -> None:
    forward, backward = effects_of(
        lambda x, weight: F.conv_transpose2d(x, weight, stride=2, padding=1, output_padding=1),
        learnt(2, 4, 8, 8),
        learnt(4, 8, 3, 3),
    )

    to_output, to_input, to_weight = (
        of(padding=(1, 1), stride=(2, 2), dilation=(1, 1), is_transposed=True, direction=each)
        for each in (Direction.DATA_GRADIENT, Direction.FORWARD, Direction.WEIGHT_GRADIENT)
    )
    assert forward == [X, to_output]
    assert backward == [Output((2, 4, 8, 8)), to_input, W, to_weight]


@pytest.mark.parametrize("dimensions", [1, 3])
def test_grouped_convolutions_of_one_and_three_dimensions_are_described(dimensions: int) -> None:
    conv = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    size = (2, 8, *(16,) * dimensions)
    kernel = (12, 2, *(3,) * dimensions)

    forward, _ = effects_of(
        lambda x, weight: conv(x, weight, stride=2, groups=4), learnt(*size), learnt(*kernel)
    )

    assert forward == [
        Output((2, 12, *(7,) * dimensions)),
        of(
            input_size=size,
            weight_size=kernel,
            padding=(0,) * dimensions,
            stride=(2,) * dimensions,
            dilation=(1,) * dimensions,
            groups=4,
        ),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, FP16])
def test_group_norm_keeps_its_factors_in_full_precision(dtype: torch.dtype) -> None:
    forward, backward = effects_of(
        lambda x, weight, bias: F.group_norm(x, 4, weight, bias),
        learnt(2, 8, 16, 16, dtype=dtype),
        learnt(8, dtype=dtype),
        learnt(8, dtype=dtype),
    )

    maps, vector, statistics = (Output(each, dtype) for each in ((2, 8, 16, 16), (8,), (2, 4)))
    assert forward == [maps, statistics, statistics, Inside(sizes=(64, 64))]
    assert backward == [maps, vector, vector, Inside(sizes=(64, 64, 32, 32, 64))]


def test_dropout_takes_a_mask_of_bytes_and_then_its_output() -> None:
    forward, _ = effects_of(F.dropout, learnt(2, 8))

    assert forward == [Output((2, 8), torch.bool), Output((2, 8))]


def test_dropout_of_nothing_or_everything_has_no_mask() -> None:
    x = learnt(2, 8)
    with cuda_dispatch():
        cases = ((0.5, False), (0.0, True), (1.0, True), (0.5, True))
        outs = [F.dropout(x, p, training) for p, training in cases]

    nodes = [None if out is x else type(out.grad_fn).__name__ for out in outs]
    assert nodes == [None, None, "MulBackward0", "NativeDropoutBackward0"]


def test_matrix_products_use_cublas_and_copy_operands_that_it_cannot_read() -> None:
    matrix, stack, vector = torch.empty(4, 4), torch.empty(2, 4, 4), torch.empty(4)
    thin, gaps = matrix[:, :2], torch.empty(4, 8)[:, ::2]
    repeated = torch.empty(1, 1, 4).expand(2, 4, 4)
    products: list[tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...], Any, Any]] = [
        (torch.mm, (matrix, matrix), (4, 4), ()),
        (torch.mm, (matrix, matrix.t()), (4, 4), ()),
        (torch.mm, (matrix, gaps), (4, 4), (64,)),
        (torch.mm, (gaps, gaps), (4, 4), (64, 64)),
        (torch.addmm, (vector, matrix, matrix), (4, 4), ()),
        (torch.addmm, (vector, thin, matrix[:2]), (4, 4), ()),
        (torch.bmm, (stack, stack), (2, 4, 4), ()),
        (torch.bmm, (repeated, stack), (2, 4, 4), (128,)),
        (torch.baddbmm, (matrix, stack, stack), (2, 4, 4), ()),
        (F.linear, (stack, matrix), (8, 4), ()),
    ]

    for product, operands, shape, copies in products:
        expected = [Output(shape), Inside(sizes=copies, uses_cublas=True)]
        assert effects_of(product, *operands)[0] == expected


@pytest.mark.parametrize("dtype", [None, FP16])
def test_a_bias_is_fused_or_added_in_place(dtype: torch.dtype | None) -> None:
    x, weight, bias = torch.empty(2, 4, 4), torch.empty(4, 4), torch.empty(4)

    def operators(x: torch.Tensor, bias: torch.Tensor | None) -> list[str]:
        seen: list[str] = []
        watch = Dispatched(lambda operator, *_: seen.append(operator.overloadpacket.__name__))
        with cuda_dispatch(), autocast("cpu", dtype), watch:
            F.linear(x, weight, bias)
        return [name for name in seen if name in {"addmm", "mm", "bmm", "add", "add_"}]

    assert operators(x, bias) == operators(x[0].t(), bias) == ["addmm"]
    assert operators(x.transpose(1, 2), bias) == ["bmm", "add_"]
    assert operators(x.transpose(1, 2), None) == ["bmm"]


def test_the_loss_copies_tensors_that_are_not_contiguous() -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.int64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, labels, reduction="sum")

    logits, scalar = learnt(2, 8, 16, 16), Output(())
    assert effects_of(loss, logits) == ([X, scalar, scalar], [X, X])
    copied, _ = effects_of(loss, channels_last(logits))
    assert copied[:2] == [X, Inside(sizes=(X_BYTES,))]
    assert [each for each in copied if isinstance(each, Output)] == [X, scalar, scalar]


@pytest.mark.parametrize("dtype", [torch.float32, FP16, BF16])
def test_norms_keep_statistics_of_half_precision_in_full(dtype: torch.dtype) -> None:
    x, vector = torch.empty(2, 8, 4, 4, dtype=dtype), torch.empty(8)
    seen: list[tuple[str, list[torch.dtype]]] = []

    def watch(operator: Any, _: tuple[Any, ...], out: Any) -> None:
        if "norm" in str(operator):
            seen.append((operator.__name__, [each.dtype for each in out[:3]]))

    with cuda_dispatch(), Dispatched(watch):
        F.batch_norm(x, vector, vector, vector, vector, training=True)

    name = "native_batch_norm.default" if dtype is BF16 else "cudnn_batch_norm.default"
    assert seen == [(name, [dtype, torch.float32, torch.float32])]


# Softmax, norms, matrix products and LSTMs.


def softmax_operators(device: str, dtype: torch.dtype) -> list[str]:
    """Operators of a half-precision softmax and log-softmax under autocast."""
    seen: list[str] = []

    def watch(operator: Any, _: tuple[Any, ...], out: Any) -> None:
        if operator.namespace != "prim":  # attributes such as the device
            seen.append(f"{operator} {out.dtype}")

    x = torch.empty((2, 8), dtype=dtype, device=device)
    with rules_of(device), autocast(device, dtype), Dispatched(watch, device):
        F.softmax(x, 1)
        F.log_softmax(x, 1)
    return seen


@needs_fake_cuda
@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_softmax_widens_half_precision_as_on_cuda(dtype: torch.dtype) -> None:
    operators = softmax_operators("cpu", dtype)

    assert operators == softmax_operators("cuda", dtype)
    assert ("aten._to_copy.default torch.float32" in operators) == (dtype is BF16)


def test_the_backward_pass_of_softmax_holds_gradient_times_result() -> None:
    forward, backward = effects_of(
        lambda x: F.softmax(x, 1, dtype=torch.float32), learnt(2, 8, dtype=FP16)
    )

    assert forward == [Output((2, 8))]
    assert backward == [Output((2, 8), FP16), Inside(sizes=(4 * 2 * 8,))]


def test_layer_norm_copies_tensors_that_are_not_contiguous() -> None:
    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.transpose(1, 2), (4,), weight).transpose(1, 2).contiguous()

    forward, backward = effects_of(norm, learnt(2, 4, 8), learnt(4))

    size = 4 * 2 * 8 * 4
    maps, statistics = Output((2, 8, 4)), Output((2, 8, 1))
    copied, freed = Held(sizes=(size,)), Held(sizes=())
    assert forward == [copied, maps, statistics, statistics, freed]
    assert backward[:3] == [copied, maps, Output((4,))]
    assert backward[-2:] == [Inside(sizes=(size,)), freed]  # the gradient's copy


def test_batch_norm_copies_a_view_and_keeps_the_copy() -> None:
    view = torch.empty(2, 8, 4, 4, requires_grad=True)[:, :4]
    with cuda_dispatch():
        out = F.batch_norm(view, None, None, torch.empty(4), torch.empty(4), training=True)
        saved = out.grad_fn._saved_input  # type: ignore[union-attr] # it has one

    assert not view.is_contiguous()
    assert saved.is_contiguous()


def test_pooling_copies_views_in_the_layout_that_they_suggest() -> None:
    maps = torch.empty(2, 8, 4, 4)
    last = maps.contiguous(memory_format=torch.channels_last)

    def insides(x: torch.Tensor) -> list[Inside]:
        both = effects_of(lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2), x)[0]
        return [each for each in both if isinstance(each, Inside) and each.sizes]

    assert insides(maps) == insides(last) == []
    assert insides(maps[:, :4]) == [Inside(sizes=(4 * 2 * 4 * 16,))]


@pytest.mark.parametrize("amp", [False, True])
def test_an_lstm_runs_on_cudnn_and_keeps_its_gates_and_cells(amp: bool) -> None:  # noqa: FBT001 - parametrized
    lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
    dtype, size = (FP16, 2) if amp else (torch.float32, 4)

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", FP16, enabled=amp):
            out: torch.Tensor = lstm(x)[0]
        return out

    forward, backward = effects_of(run, learnt(3, 5, 6))

    steps_first = Inside(sizes=(size * 3 * 5 * 6,))
    hidden = Output((2, 3, 8), dtype)
    kept = Output((5 * 5 * 3 * 2 * 8 * size,), torch.uint8)
    empty = Output((0,), dtype)  # in place of the flat weights
    assert forward == [Output((3, 5, 16), dtype), hidden, hidden, kept, empty, steps_first]
    assert backward[:3] == [Output((3, 5, 6), dtype), hidden, hidden]
    assert backward[3] == Inside(sizes=(size * 3 * 5 * 6, size * 3 * 5 * 16))
    assert [each.shape for each in backward[4:-1] if isinstance(each, Output)] == [
        tuple(weight.shape) for weight in lstm.parameters()
    ]
    assert backward[-1] == steps_first


def test_an_lstm_that_is_not_trained_keeps_nothing() -> None:
    lstm = nn.LSTM(6, 8).eval()

    forward, _ = effects_of(lambda x: lstm(x)[0], torch.empty(5, 3, 6))

    assert forward[3] == Output((0,), torch.uint8)


def test_one_hot_writes_ones_into_zeros() -> None:
    seen: list[str] = []
    labels = torch.empty(2, 4, 4, dtype=torch.int64)
    with cuda_dispatch(), Dispatched(lambda operator, _, __: seen.append(str(operator))):
        found = F.one_hot(labels, 5)

    assert [each for each in seen if each.startswith("aten")] == [
        "aten.zeros.default",
        "aten.unsqueeze.default",
        "aten.scatter_.value",
    ]
    assert (found.shape, found.dtype) == ((2, 4, 4, 5), torch.int64)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_backward_pass_of_softmax_copies_a_product_in_another_layout(
    layout: torch.memory_format,
) -> None:
    result = torch.empty(2, 4, 8, 8)
    grad = torch.empty_like(result).contiguous(memory_format=layout)
    operator = aten._softmax_backward_data.default

    _, inside = effects(operator, (grad, result, 1, torch.float32), result)

    copies = () if layout is torch.contiguous_format else (result.nbytes,)
    assert inside == Inside(sizes=(result.nbytes, *copies))
