"""What a network saves for its backward pass, counted on tensors that hold no data.

Fake tensors run every shape and dtype rule of PyTorch, CUDA's autocast included, so that a table
measured on a GPU can be held to without one.
"""

import torch

from bsprobe.records.variants import Variant
from tests.support.fake_cuda import run_forward

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

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    run_forward(variant, device, hooks, batch=1)
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
