"""torchvision's Faster R-CNN, without pretrained weights."""

from torch import nn
from torchvision.models import detection


def build() -> nn.Module:
    """Build a small Faster R-CNN, which in training takes images and targets and returns losses."""
    network: nn.Module = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None
    )
    return network
