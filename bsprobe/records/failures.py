"""The meaning of a failure: out of memory, a kernel limit, a bug; decided without torch.

The messages were collected from the trackers of PyTorch and of the tools around it. Three traps
shape the rules: a full stop after "out of memory" or the letters CUDA before it are both absent
from real messages, a bug that merely mentions memory must never shrink the batch, and a process
that died says nothing of memory by itself.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from bsprobe.records.device_kind import DeviceKind


class Outcome(StrEnum):
    """The end of a trial."""

    FITS = "fits"
    FITS_WITH_RETRIES = "fits with allocator retries"
    """It ran, but only because the allocator emptied its cache and tried again: slow."""
    OUT_OF_MEMORY = "out of memory"
    """The memory that the trial is about has ended: the card's, or the limit of a CPU device."""
    HOST_MEMORY = "host memory"
    """The machine's memory has ended, not the card's: that says nothing of the batch."""
    KERNEL_LIMIT = "kernel limit"
    """A tensor passed 2**31 elements in a kernel that counts with 32 bits: not memory."""
    BATCH_TOO_SMALL = "batch too small"
    """BatchNorm met a 1x1 map with one image: the model needs a larger batch."""
    FAILED = "failed"
    TIMED_OUT = "timed out"


RAN = frozenset({Outcome.FITS, Outcome.FITS_WITH_RETRIES})
"""The outcomes of a trial whose steps all ran."""
TOO_LARGE = frozenset({Outcome.OUT_OF_MEMORY, Outcome.KERNEL_LIMIT})
"""The outcomes of a batch that no larger one can be expected to run beyond."""


class Certainty(StrEnum):
    """The certainty of a classification; "probable" wants a smaller batch to succeed afterwards."""

    CERTAIN = "certain"
    PROBABLE = "probable"
    UNEXPLAINED = "unexplained"
    """A process died, and nothing says of what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The meaning of a failure, and the words that say so."""

    outcome: Outcome
    certainty: Certainty = Certainty.CERTAIN
    evidence: str = ""
    """The type, phrase or exit status that decided."""


class KernelKill(StrEnum):
    """Evidence that the kernel has killed a process for want of memory."""

    OWN_GROUP = "oom_kill of its control group"
    """The counter of the process's own memory control group has moved."""
    MACHINE = "oom_kill of the machine"
    """The counter of the whole machine has moved, and the process had filled its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signs:
    """The types of exceptions, and the phrases, by which the end of one memory is known."""

    types: tuple[str, ...]
    certain: tuple[str, ...] = ()
    probable: tuple[str, ...] = ()


_HOST = _Signs(
    types=("MemoryError", "bad_alloc"),
    certain=(
        "C10 Out of Memory",
        "DefaultCPUAllocator: can't allocate memory",
        "DefaultCPUAllocator: not enough memory",
        "std::bad_alloc",
        "Cannot allocate memory",  # strerror(ENOMEM)
        "libgomp: Out of memory",
        "OpenBLAS error: Memory allocation still failed",
    ),
    probable=(
        # oneDNN on the CPU, when its scratch memory cannot be had.
        "could not create a memory",
        "could not create a primitive",
        "could not execute a primitive",
        "can't start new thread",
        "libgomp: Thread creation failed",
    ),
)
_CARD = _Signs(
    types=("OutOfMemoryError",),
    certain=(
        "out of memory. Tried to allocate",
        "Tried to allocate more than 1EB memory",
        "would exceed per_process_memory_fraction limit",
        "would exceed allowed memory",
        "ran out of memory outside PyTorch's allocator",
        "CUDA out of memory",
        "CUDA error: out of memory",
        "cuda runtime error (2)",
        "cudaErrorMemoryAllocation",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "HIP out of memory",
        "HIP error: out of memory",
        "hipErrorOutOfMemory",
        "XPU out of memory",
        "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
        "Allocation is out of device memory",
        "MPS backend out of memory",
        "Invalid buffer size: ",
        "MODULE:PT_DEVMEM Allocation failed",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUSOLVER_STATUS_ALLOC_FAILED",
        "CUFFT_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
        "failure 2 'out of memory'",
    ),
    probable=(
        "CUDNN_STATUS_NOT_SUPPORTED",
        "HIPBLAS_STATUS_ALLOC_FAILED",
        "UR_RESULT_ERROR_OUT_OF_RESOURCES",
        "CUDNN_STATUS_INTERNAL_ERROR",
        "CUDNN_STATUS_EXECUTION_FAILED",
        "unable to find an engine to execute this computation",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "NVML_SUCCESS == r INTERNAL ASSERT FAILED",
        "!handles_.at(i) INTERNAL ASSERT FAILED",
        "CUDA driver error: device not ready",
        "Failed to create cublas handle",
    ),
)
_SIMULATED = _Signs(types=("SimulatedOutOfMemoryError",))
"""Whatever else a prediction says of memory is said of the machine that predicts."""
_SIGNS: Final[Mapping[DeviceKind, _Signs]] = MappingProxyType(
    {DeviceKind.CPU: _HOST, DeviceKind.CUDA: _CARD, DeviceKind.SIMULATED: _SIMULATED}
)
"""By kind of device, the signs of the end of the memory that its trials are about."""
_BATCH_TOO_SMALL = ("Expected more than 1 value per channel",)
_BUGS = ("illegal memory access", "device-side assert", "required rank")
_KERNEL_LIMITS = (
    "canUse32BitIndexMath",
    "must fit into 32-bit index math",
    "INT_MAX elements",
    "output.numel() <= std::numeric_limits<int32_t>::max()",
    "Input/Output tensor is too large",
    "is too large for the channels_last CUDA kernel launch",
    # `safe_downcast` of the pooling kernels until 2.11, and since.
    "integer out of range",
    "value cannot be safely converted without overflow",
    "invalid configuration argument",
)
_SIZE_MISMATCHES = ("Sizes of tensors must match", "must match the size of tensor b")
"""The messages of `torch.cat` and of arithmetic."""
STOPPED_WITH_ITS_PEERS = "stopped: another process had failed"
"""The message for a process that waited for one that would not come any more."""
_LOST_PEERS = (
    STOPPED_WITH_ITS_PEERS,
    # Gloo, over TCP.
    "Connection closed by peer",
    "Connection reset by peer",
    "Application timeout caused pair closure",
    "Timed out waiting",
    # NCCL, and PyTorch's watchdog over it.
    "ncclRemoteError",
    "ncclSystemError",
    "NCCL communicator was aborted",
    "Watchdog caught collective operation timeout",
    # The store at which a group meets.
    "failed to recv, got 0 bytes",
    "wait timeout after",
    "Broken pipe",
)
_SIGKILL: Final = 9
"""Windows has no name for it."""


def classify(kind: DeviceKind, *, types: Sequence[str] = (), message: str = "") -> Verdict:
    """Say what a failed trial means.

    Args:
        kind: The kind of device that it ran on.
        types: Names of the exception's class and its bases; none if the process died.
        message: The exception's text, or the last words on the process's standard error.

    Returns:
        The verdict. What is not recognised is a bug: it stops a variant, it never shrinks a batch.
    """
    for phrases, outcome in (
        (_BATCH_TOO_SMALL, Outcome.BATCH_TOO_SMALL),
        (_BUGS, Outcome.FAILED),
        (_KERNEL_LIMITS, Outcome.KERNEL_LIMIT),
    ):
        if phrase := _first_in(message, phrases):
            return Verdict(outcome=outcome, evidence=phrase)
    for signs, outcome in ((_SIGNS[kind], Outcome.OUT_OF_MEMORY), (_HOST, Outcome.HOST_MEMORY)):
        if found := _recognised(signs, outcome, types, message):
            return found
    return Verdict(outcome=Outcome.FAILED, evidence=(*types, "")[0])


def classify_death(
    kind: DeviceKind, *, exit_status: int, last_words: str = "", killed: KernelKill | None = None
) -> Verdict:
    """Say what the death of a trial's process means: out of memory only with evidence of it.

    Args:
        kind: The kind of device that it ran on.
        exit_status: Negative for a signal, as `Popen` has it; a positive status is no signal.
        last_words: What the trial left on its standard error.
        killed: Evidence that the kernel killed it.
    """
    said = classify(kind, message=last_words)
    if said.evidence:
        return said
    if killed is not None and exit_status == -_SIGKILL:
        is_own = killed is KernelKill.OWN_GROUP
        return Verdict(
            outcome=Outcome.OUT_OF_MEMORY if kind is DeviceKind.CPU else Outcome.HOST_MEMORY,
            certainty=Certainty.CERTAIN if is_own else Certainty.PROBABLE,
            evidence=killed,
        )
    return Verdict(
        outcome=Outcome.FAILED,
        certainty=Certainty.UNEXPLAINED,
        evidence=manner_of_death(exit_status),
    )


def is_evidence(kind: DeviceKind, evidence: str) -> bool:
    """Tell evidence of the end of a trial's memory from what once was taken for it.

    Args:
        kind: The kind of device that the trial ran on.
        evidence: As it was recorded.
    """
    signs = _SIGNS[kind]
    kills = tuple(KernelKill) if kind is DeviceKind.CPU else ()
    return evidence in (*signs.types, *signs.certain, *signs.probable, *kills)


def is_loss_of_peer(message: str) -> bool:
    """True where a process failed only because another one, with which it worked, was gone."""
    return _first_in(message, _LOST_PEERS) is not None


def is_mismatch_of_sizes(message: str) -> bool:
    """True where tensors of unequal sizes met, as those of a U-Net do at sizes that are odd."""
    return _first_in(message, _SIZE_MISMATCHES) is not None


def manner_of_death(exit_status: int) -> str:
    """The name of the signal that ended a process, or its exit status."""
    try:
        return f"killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"exit status {exit_status}"


def _recognised(
    signs: _Signs, outcome: Outcome, types: Sequence[str], message: str
) -> Verdict | None:
    if phrase := _first_in(message, signs.certain):
        return Verdict(outcome=outcome, evidence=phrase)
    if phrase := _first_in(message, signs.probable):
        return Verdict(outcome=outcome, certainty=Certainty.PROBABLE, evidence=phrase)
    if name := next((name for name in types if name in signs.types), None):
        return Verdict(outcome=outcome, evidence=name)
    return None


def _first_in(message: str, phrases: Sequence[str]) -> str | None:
    folded = message.casefold()
    return next((phrase for phrase in phrases if phrase.casefold() in folded), None)
