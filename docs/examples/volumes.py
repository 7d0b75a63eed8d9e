"""MONAI's U-Net for volumes, and its loss."""

from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn


def build() -> nn.Module:
    """Build a U-Net for volumes of one channel and four classes."""
    network: nn.Module = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=4,
        channels=(16, 32, 64, 128, 256),
        strides=(2, 2, 2, 2),
        num_res_units=2,
    )
    return network


dice_and_cross_entropy = DiceCELoss(to_onehot_y=True, softmax=True)


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return MONAI's loss, which takes labels (N, 1, D, H, W); bsprobe makes them (N, D, H, W)."""
    found: Tensor = dice_and_cross_entropy(logits, labels.unsqueeze(1))
    return found
