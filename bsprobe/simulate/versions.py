"""Changes in PyTorch that affect a step's memory, with the version that introduced each.

Predictions follow the installed PyTorch by default. A prediction of a published measurement uses
the version that it was made with. Limits on a kernel's size are in `cuda/limits.py`.
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from importlib import metadata
from types import MappingProxyType
from typing import Final, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
Version = tuple[int, int]
"""Major and minor version, of PyTorch or of CUDA."""


class Change(Enum):
    """A change in PyTorch's behaviour, described as it is from that version on."""

    INPUT_OF_HARDTANH_COPIED = auto()
    """`hardtanh_`, which in-place ReLU6 calls, copies its input for the backward pass."""
    INPUT_OF_RELU_FREED = auto()
    """Out-of-place `relu` saves its result for the backward pass instead of its input."""
    GELU_IN_HALF_PRECISION = auto()
    """CUDA's autocast leaves GELU in the dtype of its input instead of casting it to fp32."""
    INPUT_OF_SOFTMAX_FREED = auto()
    """`softmax` and `log_softmax` save only their result for the backward pass."""
    KERNELS_LOADED_LAZILY = auto()
    """A kernel's code is loaded, outside the allocator, when it first runs (CUDA 11.7)."""
    GRADIENTS_ADDED_IN_PLACE = auto()
    """Gradients of a value used twice are added in place, if nothing else refers to them."""
    GRADIENTS_SET_TO_NONE = auto()
    """`Optimizer.zero_grad()` frees the gradients."""
    OPTIMIZERS_USE_FOREACH = auto()
    """Optimizers on CUDA update all parameters at once by default."""
    CUDNN_FRONTEND = auto()
    """Convolutions query cuDNN's graph API (v8) for plans and run the first that builds."""
    LOGITS_LOSS_BY_LOG_SIGMOID = auto()
    """`binary_cross_entropy_with_logits` allocates one temporary tensor instead of four."""
    INTERPOLATION_IN_FP32 = auto()
    """CUDA's autocast runs interpolation in fp32."""
    GROUPED_QUERIES_FUSED = auto()
    """CUDA's memory-efficient attention supports grouped queries; all fused kernels support a
    single key head."""
    CUBLAS_WORKSPACE_FREED = auto()
    """cuBLAS's workspace is allocated for each call instead of being kept."""


SINCE: Final[Mapping[Change, Version]] = MappingProxyType(
    {
        # pytorch/pytorch#62329, still in force (pytorch/pytorch#95432): derivatives.yaml.
        Change.INPUT_OF_HARDTANH_COPIED: (1, 10),
        # pytorch/pytorch#63089: `threshold_backward(grad, result, 0)` in derivatives.yaml.
        Change.INPUT_OF_RELU_FREED: (1, 10),
        # pytorch/pytorch#59639: the fp32 list of ATen/autocast_mode.cpp.
        Change.GELU_IN_HALF_PRECISION: (1, 10),
        # pytorch/pytorch#65242: derivatives.yaml names the type of `self`, no longer `self`.
        Change.INPUT_OF_SOFTMAX_FREED: (1, 11),
        # pytorch/pytorch#86509 sets CUDA_MODULE_LOADING=LAZY.
        Change.KERNELS_LOADED_LAZILY: (1, 13),
        # pytorch/pytorch#90217: `can_accumulate_inplace` in torch/csrc/autograd/input_buffer.cpp.
        Change.GRADIENTS_ADDED_IN_PLACE: (2, 0),
        # pytorch/pytorch#92731: `Optimizer.zero_grad`.
        Change.GRADIENTS_SET_TO_NONE: (2, 0),
        # pytorch/pytorch#92306 and, for parameters, #95862: torch/optim/optimizer.py.
        Change.OPTIMIZERS_USE_FOREACH: (2, 0),
        # pytorch/pytorch#91117: ATen/native/cudnn/Conv_v8.cpp.
        Change.CUDNN_FRONTEND: (2, 0),
        # pytorch/pytorch#115539: ATen/native/Loss.cpp.
        Change.LOGITS_LOSS_BY_LOG_SIGMOID: (2, 3),
        # pytorch/pytorch#121072: AT_FORALL_FP32 in ATen/autocast_mode.h.
        Change.INTERPOLATION_IN_FP32: (2, 4),
        # pytorch/pytorch#191085: `q_heads_per_kv` in cuda/mem_eff_attention/kernel_backward.h.
        Change.GROUPED_QUERIES_FUSED: (2, 14),
        # ATen/cuda/CUDABlas.cpp
        Change.CUBLAS_WORKSPACE_FREED: (2, 15),
    }
)


def has(version: Version, change: Change) -> bool:
    """True if a version of PyTorch has a change."""
    return version >= SINCE[change]


def until(version: Version, older: Mapping[Change, Mapping[_Key, _Value]]) -> dict[_Key, _Value]:
    """Collect the entries that apply to a version because it predates the changes removing them.

    Args:
        version: Version of PyTorch.
        older: The entries that each change removed, by key.
    """
    return {
        key: value
        for change, ended in older.items()
        if not has(version, change)
        for key, value in ended.items()
    }


def parsed(version: str) -> Version:
    """Parse the major and minor version of a string such as `2.14.1+cu130`.

    Raises:
        ValueError: The string does not begin with a version.
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise ValueError(f"not a version: {version!r}")
    return int(found[1]), int(found[2])


INSTALLED: Final = parsed(metadata.version("torch"))
"""Version of the installed PyTorch."""
