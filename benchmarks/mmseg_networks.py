"""mmsegmentation's FCN with a dilated ResNetV1c, as its model zoo trained it; see published.py.

Source: configs/_base_/models/fcn_r50-d8.py, mmseg/models/backbones/resnet.py and
mmseg/models/decode_heads/fcn_head.py of mmsegmentation 0.x.
"""

from collections.abc import Callable

import torch
from torch import nn
from torchvision.models import ResNet, resnet50, resnet101


class FCN(nn.Module):
    """Backbone with output stride 8, head, and auxiliary head on the third stage."""

    def __init__(self, resnet: Callable[..., ResNet], classes: int) -> None:
        super().__init__()
        # Like mmsegmentation's, torchvision's first dilated block of a stage keeps the dilation
        # of the stage before.
        body = resnet(weights=None, replace_stride_with_dilation=[False, True, True])
        self.stem = nn.Sequential(
            *_convolution(3, 32, stride=2), *_convolution(32, 32), *_convolution(32, 64)
        )
        self.pool = body.maxpool
        self.stages = nn.ModuleList([body.layer1, body.layer2, body.layer3, body.layer4])
        self.convolutions = nn.Sequential(*_convolution(2048, 512), *_convolution(512, 512))
        self.concatenated = nn.Sequential(*_convolution(2048 + 512, 512))
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(512, classes, 1))
        self.auxiliary = nn.Sequential(
            *_convolution(1024, 256), nn.Dropout2d(0.1), nn.Conv2d(256, classes, 1)
        )

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of both heads at an eighth of the size, as torchvision's dict."""
        x = self.pool(self.stem(images))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        both = torch.cat([x, self.convolutions(x)], dim=1)
        return {
            "out": self.classifier(self.concatenated(both)),
            "aux": self.auxiliary(maps[2]),
        }


def fcn_r50_d8(num_classes: int) -> nn.Module:
    """FCN R-50-D8."""
    return FCN(resnet50, num_classes)


def fcn_r101_d8(num_classes: int) -> nn.Module:
    """FCN R-101-D8."""
    return FCN(resnet101, num_classes)


def _convolution(channels_in: int, channels: int, *, stride: int = 1) -> list[nn.Module]:
    """Mmcv's ConvModule: 3x3, BatchNorm, ReLU in place."""
    return [
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]
