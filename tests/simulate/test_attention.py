"""Attention on CUDA: the choice of a kernel, and its memory."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses
from torch.nn.attention import SDPBackend, sdpa_kernel

from bsprobe.simulate.cuda import cuda_dispatch, effects
from bsprobe.simulate.cuda.attention import Attention, choice
from bsprobe.simulate.timeline import Kind, Section
from tests.support.fake_cuda import Dispatched, autocast, needs_fake_cuda, rules_of
from tests.support.optional_packages import needs_timm
from tests.support.traced_networks import born, extra, tracer_of

FP32, FP16, BF16, FP64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
FLASH, EFFICIENT, MATH = Attention.FLASH, Attention.EFFICIENT, Attention.MATH
Program = Callable[[], object]
attend: Any = F.scaled_dot_product_attention
NEW = torch.__version__ >= "2.14"


@pytest.fixture
def _fake() -> Iterator[None]:
    """Make all tensors of a test fake tensors, without data."""
    with FakeTensorMode():
        yield


def learnt(*shape: int, dtype: torch.dtype = FP32, device: str = "cpu") -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=device, requires_grad=True)


# The choice.

CHOICES: list[tuple[Attention, dict[str, Any]]] = [
    (EFFICIENT, {}),
    (FLASH, {"dtype": FP16}),
    (FLASH, {"dtype": BF16}),
    (MATH, {"dtype": FP64}),
    (EFFICIENT, {"dtype": FP16, "mask": (7, 9)}),
    (EFFICIENT, {"mask": (2, 1, 7, 9)}),
    (FLASH, {"dtype": FP16, "width": 6}),  # padded
    (MATH, {"width": 6}),
    (EFFICIENT, {"width": 4}),
    (MATH, {"dtype": FP16, "width": 4, "mask": (7, 9)}),
    (FLASH, {"dtype": FP16, "width": 256}),
    (EFFICIENT, {"dtype": FP16, "width": 264}),
    (EFFICIENT, {"dtype": FP16, "values": 16}),
    (EFFICIENT, {"dtype": FP16, "is_causal": True}),  # 7 queries of 9 keys
    (FLASH, {"dtype": FP16, "is_causal": True, "keys": 7}),
    (MATH, {"keys": 0}),
    (FLASH, {"dtype": FP16, "heads": 2, "enable_gqa": True}),
    (MATH, {"dtype": FP16, "heads": 2}),
    (MATH, {"dtype": FP16, "heads": 3, "enable_gqa": True}),
    (EFFICIENT if NEW else MATH, {"heads": 2, "enable_gqa": True}),
    (EFFICIENT if NEW else MATH, {"heads": 1}),
]


@pytest.mark.parametrize(("expected", "case"), CHOICES)
def test_the_kernel_is_the_first_that_supports_the_operands(
    expected: Attention, case: dict[str, Any]
) -> None:
    asked = {"dtype": FP32, "width": 8, "keys": 9, "heads": 4, "mask": None, **case}
    keys, heads, width = asked["keys"], asked["heads"], asked["width"]
    query = torch.empty(2, 4, 7, width, dtype=asked["dtype"])
    key = torch.empty(2, heads, keys, width, dtype=asked["dtype"])
    value = torch.empty(2, heads, keys, asked.get("values", width), dtype=asked["dtype"])
    mask = None if asked["mask"] is None else torch.empty(asked["mask"], dtype=asked["dtype"])
    flags = {"is_causal": False, "enable_gqa": False} | {
        name: each for name, each in case.items() if name in {"is_causal", "enable_gqa"}
    }

    assert choice(query, key, value, mask, **flags) is expected


def test_operands_without_four_dimensions_or_a_dense_last_one_run_the_math_kernel() -> None:
    flat, rows = torch.empty(4, 7, 8), torch.empty(2, 4, 8, 8).transpose(2, 3)
    mask = torch.empty(8, 8).t()
    options = {"is_causal": False, "enable_gqa": False}

    assert choice(flat, flat, flat, None, **options) is MATH
    assert choice(rows, rows, rows, None, **options) is MATH
    dense = rows.transpose(2, 3)
    assert choice(dense, dense, dense, None, **options) is EFFICIENT
    assert choice(dense, dense, dense, mask, **options) is MATH


def test_a_kernel_that_is_disabled_is_not_chosen() -> None:
    part = torch.empty(2, 4, 8, 8, dtype=FP16)
    options = {"is_causal": False, "enable_gqa": False}

    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        assert choice(part, part, part, None, **options) is EFFICIENT
    with sdpa_kernel(SDPBackend.MATH):
        assert choice(part, part, part, None, **options) is MATH


# The operators.

OPERATORS = (
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"),
    *("_safe_softmax", "_softmax"),
)


def operators_of(program: Program, device: str = "cpu", amp: torch.dtype | None = None) -> Any:
    """Names of a program's operators, each with dtype, shape and strides of its results."""
    seen: list[tuple[str, list[Any]]] = []

    def watch(operator: Any, _: tuple[Any, ...], out: Any) -> None:
        if operator.namespace != "prim":  # attributes such as the device
            made = out if isinstance(out, tuple | list) else (out,)
            looks = [(x.dtype, *x.shape, x.stride()) for x in made if torch.is_tensor(x)]
            seen.append((operator.overloadpacket.__name__, looks))

    with rules_of(device), autocast(device, amp), Dispatched(watch, device):
        program()
    return seen


def attention_in(program: Program, amp: torch.dtype | None = None) -> list[str]:
    return [name for name, _ in operators_of(program, amp=amp) if name in OPERATORS]


@needs_fake_cuda
@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dropout_p": 0.1, "scale": -0.3},
        {"is_causal": True},
        {"mask": None},
        {"mask": torch.bool, "dropout_p": 0.1},
        {"heads": 2, "enable_gqa": True, "is_causal": True},
    ],
)
def test_the_math_kernel_runs_the_operators_of_cuda_but_adds_the_mask_in_place(
    options: dict[str, Any], dtype: torch.dtype
) -> None:
    # Without a card, fake CUDA tensors run no other kernel.
    def program(device: str) -> Program:
        given = dict(options)
        heads = given.pop("heads", 4)
        if "mask" in given:
            mask_dtype = given.pop("mask") or dtype
            given["attn_mask"] = torch.empty(7, 9, dtype=mask_dtype, device=device)
        query = learnt(2, 4, 7, 8, dtype=dtype, device=device)
        key, value = (learnt(2, heads, 9, 8, dtype=dtype, device=device) for _ in range(2))
        return lambda: attend(query, key, value, **given)

    with sdpa_kernel(SDPBackend.MATH):
        found, on_cuda = (operators_of(program(device), device) for device in ("cpu", "cuda"))

    has_mask = "mask" in options or "is_causal" in options
    assert sum(name == "add_" for name, _ in found) == has_mask
    assert [(name.replace("add_", "add"), looks) for name, looks in found] == on_cuda


@needs_fake_cuda
@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_under_autocast_attention_is_in_half_precision(dtype: torch.dtype) -> None:
    part = learnt(2, 4, 7, 8)

    found = attention_in(lambda: attend(part, part, part), amp=dtype)

    assert found == ["_scaled_dot_product_flash_attention"]


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize(
    ("amp", "name"),
    [
        (None, "_scaled_dot_product_efficient_attention"),
        (FP16, "_scaled_dot_product_flash_attention"),
    ],
)
def test_an_encoder_layer_of_pytorch_that_trains_has_fused_attention(
    amp: torch.dtype | None, name: str
) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    tokens = torch.empty(2, 9, 16)

    assert attention_in(lambda: layer(tokens), amp=amp) == [name]
    # MultiheadAttention returns its weights by default, so it computes them.
    alone = attention_in(lambda: layer.self_attn(tokens, tokens, tokens), amp=amp)
    assert alone == ["_softmax"]


@needs_timm
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "in_fp32", "in_half"),
    [
        ("vit_tiny_patch16_224", {"efficient": 12}, {"flash": 12}),
        # A learnt mask, and a mask of windows in every other block.
        ("swin_tiny_patch4_window7_224", {"efficient": 12}, {"efficient": 12}),
    ],
)
def test_transformers_of_timm_have_fused_attention(
    name: str, in_fp32: dict[str, int], in_half: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Equal to TIMM_FUSED_ATTN=2 in the environment; Swin's attention is not fused by default.
    monkeypatch.setattr("timm.layers.config._USE_FUSED_ATTN", 2)
    model = importlib.import_module("timm").create_model(name, attn_drop_rate=0.1)

    for amp, expected in ((None, in_fp32), (FP16, in_half)):
        with FakeTensorMode(allow_non_fake_inputs=True):
            images = torch.empty(1, 3, 224, 224)
            found = attention_in(partial(model, images), amp=amp)
        assert {kind: sum(kind in each for each in found) for kind in expected} == expected
        assert len(found) == sum(expected.values())


# The memory.


def effects_of(program: Callable[[], torch.Tensor]) -> tuple[list[Any], list[Any]]:
    """Shapes of outputs and sizes of temporary memory, in the forward and backward pass."""
    passes: tuple[list[Any], list[Any]] = ([], [])

    def keep(seen: list[Any]) -> Dispatched:
        def watch(operator: Any, args: tuple[Any, ...], out: Any) -> None:
            name = operator.overloadpacket.__name__
            if "_scaled_dot_product" in name or name == "_safe_softmax":
                seen.extend(
                    tuple(each.shape) if isinstance(each, torch.Tensor) else each.sizes
                    for each in effects(operator, args, out)
                )

        return Dispatched(watch)

    with cuda_dispatch():
        with keep(passes[0]):
            out = program()
        with keep(passes[1]):
            out.backward(torch.ones_like(out))
    return passes


def packed(*shape: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value as views of the output of one linear layer."""
    images, heads, tokens, width = shape
    made = learnt(images, tokens, 3, heads, width, dtype=dtype)
    return list(made.permute(2, 0, 3, 1, 4).unbind(0))


def fused(parts: list[torch.Tensor], **options: Any) -> Callable[[], torch.Tensor]:
    def program() -> torch.Tensor:
        out: torch.Tensor = attend(*parts, **options)
        return out.transpose(1, 2).flatten(2)

    return program


TOKENS = (2, 3, 50, 64)
ROWS = 2 * 3 * 50


@pytest.mark.usefixtures("_fake")
def test_flash_attention_keeps_row_sums_and_accumulates_the_queries_gradient_in_fp32() -> None:
    forward, backward = effects_of(fused(packed(*TOKENS, dtype=FP16), dropout_p=0.1))

    has_state_on_card = torch.__version__ >= "2.7"  # in 2.6 it is not, in 2.8 it is
    assert forward == [TOKENS, TOKENS[:3], *([(2,), ()] if has_state_on_card else [])]
    rounded = 2 * 3 * 128  # queries of all heads
    assert backward == [TOKENS, TOKENS, TOKENS, (4 * rounded, 4 * rounded * 64)]


@pytest.mark.usefixtures("_fake")
def test_flash_attention_of_grouped_queries_has_gradients_for_each_head() -> None:
    query, key, value = (learnt(2, heads, 128, 160, dtype=FP16) for heads in (4, 2, 2))

    _, backward = effects_of(fused([query, key, value], enable_gqa=True))

    rows, of_parts = 2 * 4 * 128, (2, 2, 128, 160)
    result = for_each_head = 2 * rows * 160
    # The result has the layout of the queries, heads first, and is copied.
    sizes = (result, 4 * rows, 4 * rows * 192, for_each_head, for_each_head)
    assert backward == [(2, 4, 128, 160), of_parts, of_parts, sizes]


@pytest.mark.usefixtures("_fake")
def test_memory_efficient_attention_keeps_padded_sums_and_takes_a_workspace() -> None:
    mask = learnt(50, 50)
    parts = packed(*TOKENS, dtype=FP32)

    forward, backward = effects_of(fused(parts, attn_mask=mask))

    assert forward == [TOKENS, (2, 3, 64)]
    sums = 4 * ROWS
    workspace = 4 * 2 * 3 * (4 + 64 * 64)  # one block of queries and of the width
    assert backward == [
        *(TOKENS, TOKENS, TOKENS, (2, 3, 50, 50)),
        (4 * ROWS * 64, sums, sums),
        (sums, workspace),
    ]
    assert mask.grad is not None
    assert mask.grad.shape == mask.shape


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize(
    ("width", "dropout_p", "elements"),
    [
        (64, 0.0, 4 + 64 * 64),
        (96, 0.0, 2 * (4 + 128 * 64)),
        (96, 0.1, 4 + 128 * 128),
        (128, 0.0, 4 + 128 * 128),
        # Also the gradients of keys and values, for one block of keys.
        (136, 0.0, 3 * (4 + 128 * 64) + 2 * 64 * 256),
    ],
)
def test_the_workspace_of_half_precision_depends_on_the_width_of_a_head(
    width: int, dropout_p: float, elements: int
) -> None:
    shape, mask = (2, 3, 50, width), torch.empty(2, 3, 50, 56, dtype=FP16)[..., :50]
    parts = packed(*shape, dtype=FP16)

    forward, backward = effects_of(fused(parts, attn_mask=mask, dropout_p=dropout_p))

    in_full = [(4 * ROWS * width,)] if width > 128 else []
    assert forward == [shape, (2, 3, 64), *in_full]
    assert backward == [shape, shape, shape, (4 * ROWS, 4 * 2 * 3 * elements)]


@pytest.mark.usefixtures("_fake")
def test_gradients_of_wide_heads_are_staged_for_a_block_of_keys() -> None:
    heads, width = 64, 264

    _, backward = effects_of(fused(packed(2, heads, 320, width, dtype=FP16)))

    queries = 3 * 5 * (4 + 128 * 64)
    staged = 64 * 2 * 384
    assert backward[-1] == (4 * 2 * heads * 320, 4 * 2 * heads * (queries + staged))


@pytest.mark.usefixtures("_fake")
def test_nothing_is_kept_without_a_backward_pass() -> None:
    parts = packed(*TOKENS, dtype=FP32)
    with torch.no_grad():
        found = operators_of(lambda: attend(*parts))

    made = dict(found)["_scaled_dot_product_efficient_attention"]
    assert made[1][1:4] == (2, 3, 0)


@pytest.mark.usefixtures("_fake")
def test_a_softmax_that_is_safe_holds_a_second_result_and_masks() -> None:
    part = learnt(2, 3, 50, 64, dtype=FP64)

    forward, _ = effects_of(fused([part, part, part]))

    assert forward == [(2, 3, 50, 50), (8 * ROWS * 50, ROWS * 50, ROWS)]


# Steps.

WIDTH, PIXELS = 8, 8 * 12


def attended(**options: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """A layer in which each pixel attends to all pixels."""

    def between(x: torch.Tensor) -> torch.Tensor:
        part = x.flatten(2).transpose(1, 2)[:, None].contiguous()
        given = dict(options)
        if given.pop("with_mask", False):
            given["attn_mask"] = torch.zeros(PIXELS, PIXELS, dtype=part.dtype)
        out: torch.Tensor = attend(part, part, part, **given)
        return out[:, 0].transpose(1, 2).reshape(x.shape)

    return between


@pytest.mark.parametrize("options", [{}, {"dropout_p": 0.1}, {"with_mask": True}])
def test_a_step_keeps_no_matrix_of_all_pairs_of_pixels(options: dict[str, Any]) -> None:
    batch = 5
    pairs = batch * PIXELS * PIXELS
    recordings = {}
    for name, how in (("fused", nullcontext()), ("not fused", sdpa_kernel(SDPBackend.MATH))):
        with how:
            recordings[name] = tracer_of(extra(attended(**options))).record(batch)

    kept, made = (
        {
            name: [
                size
                for _, kind, size in born(recording, Section.FIRST_STEP)
                if size % pairs == 0 and kind in kinds
            ]
            for name, recording in recordings.items()
        }
        for kinds in ({Kind.SAVED_ACTIVATION}, set(Kind))
    )
    # The weights; with dropout also a byte mask and the weights after it.
    dropped = [pairs, 4 * pairs] if "dropout_p" in options else []
    assert kept["not fused"] == [4 * pairs, *dropped]
    assert made["fused"] == []
