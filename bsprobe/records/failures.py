"""Classification of failed trials: out of memory, kernel limit or bug. Needs no torch.

The messages were collected from the issue trackers of PyTorch and related tools. The rules follow
from three observations:

- Real messages may lack the full stop after "out of memory" and the "CUDA" before it.
- A bug whose message mentions memory must not shrink the batch.
- The death of a process alone is no evidence of a lack of memory.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from bsprobe.records.device_kind import DeviceKind


class Outcome(StrEnum):
    """The outcome of a trial."""

    FITS = "fits"
    FITS_WITH_RETRIES = "fits with allocator retries"
    """The trial ran after the allocator had emptied its cache and retried, which is slow."""
    OUT_OF_MEMORY = "out of memory"
    """The memory of the GPU, or the memory limit of a CPU device, was exhausted."""
    HOST_MEMORY = "host memory"
    """The machine's memory was exhausted, not the GPU's; the batch may fit the GPU."""
    KERNEL_LIMIT = "kernel limit"
    """A tensor has more elements than a kernel with 32-bit indices supports (2**31)."""
    BATCH_TOO_SMALL = "batch too small"
    """BatchNorm got one value per channel (one image, 1x1 map); the model needs a larger batch."""
    FAILED = "failed"
    TIMED_OUT = "timed out"


RAN = frozenset({Outcome.FITS, Outcome.FITS_WITH_RETRIES})
"""The outcomes of a trial whose steps all ran."""
TOO_LARGE = frozenset({Outcome.OUT_OF_MEMORY, Outcome.KERNEL_LIMIT})
"""The outcomes of a batch after which no larger batch is expected to run."""


class Certainty(StrEnum):
    """The certainty of a classification."""

    CERTAIN = "certain"
    PROBABLE = "probable"
    """To be confirmed by a smaller batch that runs."""
    UNEXPLAINED = "unexplained"
    """The process died without evidence of the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The classification of a failure and its evidence."""

    outcome: Outcome
    certainty: Certainty = Certainty.CERTAIN
    evidence: str = ""
    """The exception type, phrase or exit status that decided."""


class KernelKill(StrEnum):
    """Evidence that the kernel's out-of-memory killer has killed a process."""

    OWN_GROUP = "oom_kill of its control group"
    """The `oom_kill` counter of the process's memory control group has increased."""
    MACHINE = "oom_kill of the machine"
    """The machine's `oom_kill` counter has increased, and the process had reached its limit."""


ALLOCATOR_COUNT: Final = "num_ooms of the allocator"
"""Evidence that PyTorch's allocator ran out of memory, although the script went on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signs:
    """Exception types and phrases that show that one kind of memory is exhausted."""

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
        # oneDNN on the CPU, if its scratch memory cannot be allocated.
        "could not create a memory",
        "could not create a primitive",
        "could not execute a primitive",
        "can't start new thread",
        # A library that is loaded under a limit; also on a file system without execution.
        "failed to map segment from shared object",
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
"""Any other sign is about the memory of the machine that predicts, which is host memory."""
_PROGRAMS: Final = (
    "Out of memory!",  # Perl
    "java.lang.OutOfMemoryError",
    "JavaScript heap out of memory",
    "fatal error: runtime: out of memory",  # Go
    "cannot allocate vector of size",  # R
    "memory exhausted",  # GNU programs
)
"""Messages of programs in other languages, which run on the CPU as users' own commands."""
_SIGNS: Final[Mapping[DeviceKind, _Signs]] = MappingProxyType(
    {
        DeviceKind.CPU: replace(_HOST, certain=(*_HOST.certain, *_PROGRAMS)),
        DeviceKind.CUDA: _CARD,
        DeviceKind.SIMULATED: _SIMULATED,
    }
)
"""By kind of device, the signs that its memory is exhausted."""
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
"""Messages of `torch.cat` and of elementwise operators."""
STOPPED_WITH_ITS_PEERS = "stopped: another process had failed"
"""The message of a process that was waiting for a peer that had failed."""
_LOST_PEERS = (
    STOPPED_WITH_ITS_PEERS,
    # Gloo, over TCP.
    "Connection closed by peer",
    "Connection reset by peer",
    "Application timeout caused pair closure",
    "Timed out waiting",
    # NCCL and PyTorch's NCCL watchdog.
    "ncclRemoteError",
    "ncclSystemError",
    "NCCL communicator was aborted",
    "Watchdog caught collective operation timeout",
    # The store for the rendezvous of a process group.
    "failed to recv, got 0 bytes",
    "wait timeout after",
    "Broken pipe",
)
_SIGKILL: Final = 9
"""Python's `signal` module lacks SIGKILL on Windows."""


def classify(kind: DeviceKind, *, types: Sequence[str] = (), message: str = "") -> Verdict:
    """Classify the failure of a trial.

    Args:
        kind: The kind of device that the trial ran on.
        types: Names of the exception's class and its bases; empty if the process died.
        message: The exception's text, or the end of the process's standard error.

    Returns:
        The verdict. An unrecognised failure is a bug: it stops the variant and does not shrink
        the batch.
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
    """Classify the death of a trial's process; out of memory needs evidence.

    Args:
        kind: The kind of device that the trial ran on.
        exit_status: The status as `Popen.returncode` has it: negative for a signal.
        last_words: The end of the process's standard error.
        killed: Evidence that the kernel killed the process.

    Returns:
        The verdict; without evidence its certainty is `UNEXPLAINED`.
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
    """Return whether recorded evidence still counts as evidence of a lack of memory.

    Earlier versions accepted more.

    Args:
        kind: The kind of device that the trial ran on.
        evidence: `Failure.evidence` of the recorded trial.
    """
    signs = _SIGNS[kind]
    others = tuple(KernelKill) if kind is DeviceKind.CPU else (ALLOCATOR_COUNT,)
    return evidence in (*signs.types, *signs.certain, *signs.probable, *others)


def is_loss_of_peer(message: str) -> bool:
    """Return whether a process failed because a peer process was gone."""
    return _first_in(message, _LOST_PEERS) is not None


def is_mismatch_of_sizes(message: str) -> bool:
    """Return whether tensors had unequal sizes, as in a U-Net with an odd image size."""
    return _first_in(message, _SIZE_MISMATCHES) is not None


def manner_of_death(exit_status: int) -> str:
    """Describe an exit status: the name of the signal, or the number."""
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
