"""The convolutions of networks: material for the scripts beside this one, not a script itself."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from torch import nn, zeros
from torch._subclasses.fake_tensor import FakeTensorMode

from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.simulate.cudnn.convolutions import Convolution, Direction
from bsprobe.training.models.factory import build_model

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
"""Those that a current cuDNN supports."""
NETWORKS = (
    "deeplabv2-resnet101",
    "torchvision:fcn_resnet50",
    "torchvision:deeplabv3_resnet101",
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
)
RESOLUTIONS = (Resolution(height=512, width=1024), Resolution(height=321, width=321))
BATCHES = (2, 6)
DTYPES = ("float32", "float16")


def network_convolutions(network: str, resolution: Resolution, batch: int) -> list[Convolution]:
    """The distinct convolutions of one network's forward pass: fp32, contiguous."""
    found: dict[Convolution, None] = {}

    def note(module: nn.Module, args: tuple[Any, ...], _output: object) -> None:
        assert isinstance(module, nn.Conv2d)  # noqa: S101 - hooked on those alone
        assert isinstance(module.padding, tuple)  # noqa: S101 - no network here says "same"
        convolution = Convolution(
            direction=Direction.FORWARD,
            dtype="float32",
            channels_last=False,
            input_size=tuple(args[0].shape),
            weight_size=tuple(module.weight.shape),
            padding=module.padding,
            stride=module.stride,
            dilation=module.dilation,
            groups=module.groups,
        )
        found[convolution] = None

    with FakeTensorMode():
        model = build_model(Variant(model=network, resolution=resolution))
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        model(zeros(batch, 3, resolution.height, resolution.width))
    return list(found)


def all_forward() -> list[Convolution]:
    """The distinct convolutions of all networks, resolutions and batches."""
    cases = product(NETWORKS, RESOLUTIONS, BATCHES)
    return list(dict.fromkeys(each for case in cases for each in network_convolutions(*case)))


def in_every_way(convolutions: Iterable[Convolution]) -> Iterator[Convolution]:
    """Each in both dtypes, both layouts and all three directions."""
    for convolution, dtype, layout, way in product(convolutions, DTYPES, (False, True), Direction):
        yield replace(convolution, dtype=dtype, channels_last=layout, direction=way)
