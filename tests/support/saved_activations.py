"""Activations that a network saves for its backward pass, measured on fake tensors.

Fake tensors follow PyTorch's shape and dtype rules, including CUDA's autocast, so a table measured
on a GPU can be checked without one.
"""

import torch

from bsprobe.records.variants import Variant
from tests.support.fake_cuda import run_forward

_LEAST_DIMENSIONS = 3
"""Least dimensions of activations and labels; statistics saved by norms have fewer."""


def saved_activation_bytes(variant: Variant, device: str) -> int:
    """Return the bytes of activations saved by the forward pass and the loss of one image.

    Parameters and the half-precision copies that autocast makes of them are left out.
    """
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() >= _LEAST_DIMENSIONS and tensor.shape[0] == 1:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    run_forward(variant, device, hooks, batch=1)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
