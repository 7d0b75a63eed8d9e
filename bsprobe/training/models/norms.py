"""Normalisation layers that can replace BatchNorm.

All classes take the arguments of `nn.BatchNorm2d` that networks pass. torchvision is not imported.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name PyTorch's own code uses

from bsprobe.records.variants import Norm

GROUPS = 32
"""Wu & He 2018. Layers whose width it does not divide use the greatest common divisor."""

NormLayer = Callable[[int], nn.Module]


class GroupNorm(nn.GroupNorm):
    """GroupNorm with 32 groups, in the precision of autocast: fp32 on CUDA."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = None) -> None:
        del momentum  # there are no running statistics
        super().__init__(math.gcd(GROUPS, num_features), num_features, eps=eps)


class GroupNormAmp(GroupNorm):
    """GroupNorm in the dtype of its input, outside of autocast.

    The kernel computes statistics in fp32. Its tensors, and the activations saved for the backward
    pass, stay in half precision.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - nn.GroupNorm's name
        """Normalise a feature map (N, C, H, W)."""
        with torch.autocast(input.device.type, enabled=False):
            return F.group_norm(
                input,
                self.num_groups,
                self.weight.to(input.dtype),
                self.bias.to(input.dtype),
                self.eps,
            )


class InstanceNorm(nn.InstanceNorm2d):
    """InstanceNorm with a learnt scale and shift per channel."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = None) -> None:
        del momentum  # there are no running statistics
        super().__init__(num_features, eps=eps, affine=True)


class FrozenBatchNorm(nn.Module):
    """BatchNorm with fixed statistics, scale and shift, folded to `x * scale + shift`.

    Scale and shift are cast to the dtype of the input. With fp32 buffers, as in torchvision's
    `FrozenBatchNorm2d`, autocast promotes the result, and three times the memory is saved for the
    backward pass. The buffers have the names of BatchNorm's, so that its weights can be loaded.

    Without loaded weights nothing is normalised. The variance is 4 then, which gives the scale
    0.5: with 1, activations would double in each of a ResNet's 33 blocks, beyond the range of
    fp16. The variance is set rather than the weight, because torchvision's networks set the
    weights of all norms to 1.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = None) -> None:
        del momentum  # the statistics do not move
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.full((num_features,), 4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scale and shift a feature map (N, C, H, W)."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.to(x.dtype)[:, None, None] + shift.to(x.dtype)[:, None, None]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the entries of BatchNorm without its count of batches."""
        state_dict.pop(f"{prefix}num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


LAYERS: dict[Norm, type[nn.Module]] = {
    Norm.BATCH: nn.BatchNorm2d,
    Norm.SYNC_BATCH: nn.BatchNorm2d,  # converted after the network is built
    Norm.GROUP: GroupNorm,
    Norm.GROUP_AMP: GroupNormAmp,
    Norm.INSTANCE: InstanceNorm,
    Norm.FROZEN: FrozenBatchNorm,
}
