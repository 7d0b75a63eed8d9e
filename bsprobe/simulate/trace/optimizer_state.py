"""The tensors that an optimizer keeps."""

from collections.abc import Mapping

import torch

Tensors = list[torch.Tensor]


def state_of(optimizer: torch.optim.Optimizer) -> tuple[Tensors, Tensors]:
    """Return the state on the device, and the counts of steps on the host.

    Adam counts its steps on the host unless it is fused or capturable.
    """
    groups = optimizer.param_groups
    counts_on_device = any(group.get("fused") or group.get("capturable") for group in groups)
    on_device, on_host = Tensors(), Tensors()
    for held in optimizer.state.values():
        state = held if isinstance(held, Mapping) else {"": held}  # shared by all parameters
        for name, each in state.items():
            if torch.is_tensor(each):
                is_count = name == "step" and not counts_on_device
                (on_host if is_count else on_device).append(each)
    return on_device, on_host
