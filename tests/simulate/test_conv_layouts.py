"""Convolutions whose input and weight have different layouts.

Source: `cudnn_conv_suggest_memory_format` (aten/src/ATen/native/ConvUtils.h), the functions of
cudnn/ConvShared.cpp, and `obeys_layout_contract` (torch/csrc/autograd/utils).
"""

import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.variants import Variant
from bsprobe.simulate.cuda import Held, effects
from bsprobe.simulate.cuda.scratch import aten
from bsprobe.simulate.cudnn.convolutions import Direction
from bsprobe.simulate.timeline import Action, Kind, Recording, Section
from tests.support.fake_cuda import Dispatched
from tests.support.traced_networks import tracer_of

FLAT, LAST = torch.contiguous_format, torch.channels_last
IMAGES, MAPS, LOGITS = 4 * 2 * 3 * 32 * 48, 4 * 2 * 8 * 8 * 12, 4 * 2 * 4 * 8 * 12
"""Bytes of two images, and of the outputs of the two layers."""
FIRST, SECOND = 4 * 8 * 3 * 9, 4 * 4 * 8 * 9
"""Bytes of the weights of the two layers."""


class LaidOutNet(nn.Module):
    """Two convolutions, with images in one layout and weights in another."""

    def __init__(
        self, variant: Variant, *, images: torch.memory_format, weights: torch.memory_format
    ) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False)
        self.classifier = nn.Conv2d(8, variant.logits, 3, padding=1, bias=False)
        for layer in (self.features, self.classifier):
            layer.weight.data = layer.weight.data.contiguous(memory_format=weights)
        self._images = images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.features(images.contiguous(memory_format=self._images)))
        logits: torch.Tensor = self.classifier(maps)
        return logits


@functools.cache
def recorded(images: torch.memory_format, weights: torch.memory_format) -> Recording:
    return tracer_of(functools.partial(LaidOutNet, images=images, weights=weights)).record(2)


def copied_inside(recording: Recording) -> list[tuple[str, str, tuple[int, ...]]]:
    """Sizes of the copies in the convolutions of a step, with layer and direction."""
    taken = (
        recording.scratches[subject]
        for action, subject in recording.sections[Section.LATER_STEP]
        if action is Action.SCRATCH
    )
    return [
        (each.place.module, each.convolution.direction, each.sizes)
        for each in taken
        if each.convolution is not None
    ]


@pytest.mark.parametrize(
    ("images", "weights", "copies"),
    [
        (FLAT, FLAT, ((), (), (), (), ())),
        # The gradient from the loss is contiguous.
        (LAST, LAST, ((), (), (), (), ())),
        # The images are copied too; the outputs are channels last.
        (FLAT, LAST, ((IMAGES,), (), (), (), ())),
        # The weights are copied in each call.
        (LAST, FLAT, ((FIRST,), (SECOND,), (SECOND,), (), ())),
    ],
)
def test_operands_in_another_layout_are_copied(
    images: torch.memory_format, weights: torch.memory_format, copies: tuple[tuple[int, ...], ...]
) -> None:
    assert copied_inside(recorded(images, weights)) == [
        ("features", "forward", copies[0]),
        ("classifier", "forward", copies[1]),
        ("classifier", "data gradient", copies[2]),
        ("classifier", "weight gradient", copies[3]),
        ("features", "weight gradient", copies[4]),
    ]


@pytest.mark.parametrize(
    ("images", "weights", "held"),
    [(FLAT, FLAT, []), (LAST, LAST, [LOGITS]), (FLAT, LAST, [LOGITS, IMAGES])],
)
def test_copies_of_gradient_and_input_live_until_the_weight_gradient_is_computed(
    images: torch.memory_format, weights: torch.memory_format, held: list[int]
) -> None:
    recording = recorded(images, weights)
    step, found = recording.sections[Section.LATER_STEP], []
    for start, event in enumerate(step):
        if event[0] is not Action.ALLOCATE:
            continue
        place, _, size = recording.storages[event[1]]
        if place.operator != "convolution_backward" or size not in (IMAGES, LOGITS):
            continue
        found.append(size)
        until = step[start : step.index((Action.FREE, event[1]))]
        used = [recording.scratches[n].convolution for kind, n in until if kind is Action.SCRATCH]
        assert [each.direction for each in used if each][-1] is Direction.WEIGHT_GRADIENT
    assert found == held


@pytest.mark.parametrize("images", [FLAT, LAST])
@pytest.mark.parametrize("weights", [FLAT, LAST])
def test_gradients_of_contiguous_weights_are_cloned_if_the_images_are_channels_last(
    images: torch.memory_format, weights: torch.memory_format
) -> None:
    gradients = {
        (place.operator, size)
        for place, kind, size in recorded(images, weights).storages
        if kind is Kind.GRADIENT
    }

    is_cloned = (images, weights) == (LAST, FLAT)
    operator = "new_empty_strided" if is_cloned else "convolution_backward"
    assert gradients == {(operator, FIRST), (operator, SECOND)}


@pytest.mark.parametrize("convolve", [F.conv2d, F.conv_transpose2d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("images", [FLAT, LAST])
@pytest.mark.parametrize("weights", [FLAT, LAST])
def test_outputs_and_both_gradients_are_channels_last_if_input_or_weight_is(
    convolve: Any, dtype: torch.dtype, images: torch.memory_format, weights: torch.memory_format
) -> None:
    seen: list[torch.Tensor] = []

    def watch(operator: Any, _: tuple[Any, ...], out: Any) -> None:
        if "convolution" in str(operator):
            outs = out if isinstance(out, tuple) else (out,)
            seen.extend(each for each in outs if each is not None)

    with FakeTensorMode(), Dispatched(watch):
        x = torch.empty(2, 4, 8, 8, dtype=dtype).contiguous(memory_format=images)
        weight = torch.empty(4, 4, 3, 3, dtype=dtype).contiguous(memory_format=weights)
        y = convolve(x.requires_grad_(), weight.requires_grad_())
        for gradient in (FLAT, LAST):
            y.backward(torch.ones_like(y, memory_format=gradient), retain_graph=True)

    layout = LAST if LAST in (images, weights) else FLAT
    assert len(seen) == 5
    assert all(each.is_contiguous(memory_format=layout) for each in seen)


def test_copies_are_made_before_the_gradients_and_freed_after_both() -> None:
    with FakeTensorMode():
        x, weight = torch.empty(2, 8, 8, 12), torch.empty(4, 8, 3, 3).to(memory_format=LAST)
        grad = torch.empty(2, 4, 8, 12)
    settings = ([4], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
    out = (x, weight, None)
    found = effects(aten.convolution_backward.default, (grad, x, weight, *settings), out)
    first, *between, last = [each for each in found if not isinstance(each, torch.Tensor)]

    assert (first, last) == (Held(sizes=(MAPS, LOGITS)), Held(sizes=()))
    assert [each.sizes for each in between] == [(), ()]
