"""What a network saves for its backward pass, counted on tensors that hold no data.

Fake tensors run every shape and dtype rule of PyTorch, CUDA's autocast included, so that a table
measured on a GPU can be held to without one.
"""

import torch
from torch._subclasses import FakeTensorMode

from bsprobe.records.variants import Variant
from bsprobe.training.losses import segmentation_loss, valid_pixels
from bsprobe.training.models.factory import build_model
from tests.support.fake_cuda import AUTOCAST_DTYPES, autocast

_LEAST_DIMENSIONS = 3
"""Of activations and labels; the statistics that norms save have fewer."""


def saved_activation_bytes(variant: Variant, device: str) -> int:
    """Bytes of activations saved by the forward pass and the loss of one image.

    Parameters and the half-precision copies that autocast makes of them are left out.
    """
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() >= _LEAST_DIMENSIONS and tensor.shape[0] == 1:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode(), torch.device(device):
        model = build_model(variant)
        height, width = variant.size.height, variant.size.width
        images = torch.empty((1, 3, height, width))
        labels = torch.zeros((1, height, width), dtype=torch.int64)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            autocast(device, AUTOCAST_DTYPES.get(variant.precision)),
        ):
            segmentation_loss(model(images), labels, valid_pixels(labels))
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
