"""What counts as out of memory, as a kernel limit, as a bug: one function, without torch.

The messages were collected from the trackers of PyTorch and of the tools around it. Two traps
shape the rules: a full stop after "out of memory" or the letters CUDA before it are both absent
from real messages, and a bug that merely mentions memory must never shrink the batch.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a trial ended."""

    FITS = "fits"
    FITS_WITH_RETRIES = "fits with allocator retries"
    """It ran, but only because the allocator emptied its cache and tried again: slow."""
    OUT_OF_MEMORY = "out of memory"
    KERNEL_LIMIT = "kernel limit"
    """A tensor passed 2**31 elements in a kernel that counts with 32 bits: not memory."""
    BATCH_TOO_SMALL = "batch too small"
    """BatchNorm met a 1x1 map with one image: the model needs a larger batch."""
    FAILED = "failed"
    TIMED_OUT = "timed out"


RAN = frozenset({Outcome.FITS, Outcome.FITS_WITH_RETRIES})
"""The outcomes of a trial whose steps all ran."""


class Certainty(StrEnum):
    """How sure the classification is; "probable" wants a smaller batch to succeed afterwards."""

    CERTAIN = "certain"
    PROBABLE = "probable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a failure means, and the words that say so."""

    outcome: Outcome
    certainty: Certainty = Certainty.CERTAIN
    evidence: str = ""
    """The type, phrase or exit status that decided."""


_OUT_OF_MEMORY_TYPES = ("OutOfMemoryError", "MemoryError", "bad_alloc")
_BATCH_TOO_SMALL = ("Expected more than 1 value per channel",)
_BUGS = ("illegal memory access", "device-side assert", "required rank")
_KERNEL_LIMITS = (
    "canUse32BitIndexMath",
    "must fit into 32-bit index math",
    "INT_MAX elements",
    "output.numel() <= std::numeric_limits<int32_t>::max()",
    "Input/Output tensor is too large",
    "is too large for the channels_last CUDA kernel launch",
    "invalid configuration argument",
)
_CERTAIN = (
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
    "C10 Out of Memory",
    "HIP out of memory",
    "HIP error: out of memory",
    "hipErrorOutOfMemory",
    "XPU out of memory",
    "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
    "Allocation is out of device memory",
    "MPS backend out of memory",
    "Invalid buffer size: ",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MODULE:PT_DEVMEM Allocation failed",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUFFT_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "failure 2 'out of memory'",
    "std::bad_alloc",
)
_PROBABLE = (
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
    # oneDNN on the CPU, when its scratch memory cannot be had.
    "could not create a memory",
    "could not create a primitive",
    "could not execute a primitive",
    "can't start new thread",
)
STOPPED_WITH_ITS_PEERS = "stopped: another process had failed"
"""What is said of a process that waited for one that would not come any more."""
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
_PROBABLE_SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.Signals(9))
"""An unhandled bad_alloc aborts, an unchecked allocation crashes, the kernel's killer kills."""
_SHELL_SIGNAL_OFFSET = 128


def classify(
    *, types: Sequence[str] = (), message: str = "", exit_status: int | None = None
) -> Verdict:
    """Say what a failed trial means.

    Args:
        types: Names of the exception's class and its bases, or none if the process died.
        message: The exception's text, or the last words on the process's standard error.
        exit_status: The process's exit status, negative for a signal, or None if it lives.

    Returns:
        The verdict. What is not recognised is a bug: it stops a variant, it never shrinks a batch.
    """
    for phrases, outcome, certainty in (
        (_BATCH_TOO_SMALL, Outcome.BATCH_TOO_SMALL, Certainty.CERTAIN),
        (_BUGS, Outcome.FAILED, Certainty.CERTAIN),
        (_KERNEL_LIMITS, Outcome.KERNEL_LIMIT, Certainty.CERTAIN),
        (_CERTAIN, Outcome.OUT_OF_MEMORY, Certainty.CERTAIN),
        (_PROBABLE, Outcome.OUT_OF_MEMORY, Certainty.PROBABLE),
    ):
        if phrase := _first_in(message, phrases):
            return Verdict(outcome=outcome, certainty=certainty, evidence=phrase)
    if name := next((name for name in types if name in _OUT_OF_MEMORY_TYPES), None):
        return Verdict(outcome=Outcome.OUT_OF_MEMORY, evidence=name)
    if exit_status is not None and (death := _signal_of(exit_status)) in _PROBABLE_SIGNALS:
        return Verdict(
            outcome=Outcome.OUT_OF_MEMORY,
            certainty=Certainty.PROBABLE,
            evidence=f"killed by {death.name}",
        )
    evidence = f"exit status {exit_status}" if exit_status is not None else (types or ("",))[0]
    return Verdict(outcome=Outcome.FAILED, evidence=evidence)


def is_loss_of_peer(message: str) -> bool:
    """Whether a process failed only because another one, with which it worked, was gone."""
    return _first_in(message, _LOST_PEERS) is not None


def _first_in(message: str, phrases: Sequence[str]) -> str | None:
    folded = message.casefold()
    return next((phrase for phrase in phrases if phrase.casefold() in folded), None)


def _signal_of(exit_status: int) -> signal.Signals | None:
    """The signal that ended a process: Python says -9, a shell between says 137."""
    number = -exit_status if exit_status < 0 else exit_status - _SHELL_SIGNAL_OFFSET
    try:
        return signal.Signals(number)
    except ValueError:
        return None
