"""Tests of the classification of failures."""

import signal
from functools import partial

import pytest

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import (
    RAN,
    Certainty,
    KernelKill,
    Outcome,
    Verdict,
    classify,
    classify_death,
)
from bsprobe.records.trials import Failure
from bsprobe.simulate.allocator.caching import SimulatedOutOfMemoryError

CARD = [
    # The caching allocator.
    (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB "
        "of which 1.31 GiB is free. Including non-PyTorch memory, this process has 22.32 GiB "
        "memory in use. Of the allocated memory 21.60 GiB is allocated by PyTorch, and 208.21 MiB "
        "is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try "
        "setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  See "
        "documentation for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html)"
    ),
    "CUDA out of memory. Tried to allocate more than 1EB memory.",
    (
        "CUDA out of memory: 2147483648 bytes were preemptively rejected because it would exceed "
        "per_process_memory_fraction limit"
    ),
    (
        "Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated"
        "     : 9.50 GiB\nRequested               : 2.00 GiB\nDevice limit            : 10.00 GiB"
    ),
    "CUDA ran out of memory outside PyTorch's allocator",
    # The runtime and the driver.
    (
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some "
        "other API call, so the stacktrace below might be incorrect.\nFor debugging consider "
        "passing CUDA_LAUNCH_BLOCKING=1"
    ),
    "cuda runtime error (2) : out of memory at /pytorch/aten/src/THC/THCGeneral.cpp:844",
    "CUDA failure: cudaErrorMemoryAllocation",
    "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
    # AMD, Intel, Apple: without CUDA, and not always with a full stop.
    (
        "HIP out of memory. Tried to allocate 3.31 GiB. GPU 0 has a total capacity of 128.00 GiB "
        "of which 780.24 MiB is free."
    ),
    (
        "HIP error: out of memory\nHIP kernel errors might be asynchronously reported at some "
        "other API call, so the stacktrace below might be incorrect."
    ),
    "XPU out of memory. Tried to allocate 5.73 GiB. GPU 0 has a total capacity of 15.11 GiB.",
    "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "Allocation is out of device memory on current platform.",
    (
        "MPS backend out of memory (MPS allocated: 17.92 GiB, other allocations: 384.00 KiB, max "
        "allowed: 18.13 GiB). Tried to allocate 256.00 MiB on private pool. Use "
        "PYTORCH_MPS_HIGH_WATERMARK_RATIO=0.0 to disable upper limit for memory allocations (may "
        "cause system failure)."
    ),
    "Invalid buffer size: 24.41 GiB",
    "FATAL ERROR :: MODULE:PT_DEVMEM Allocation failed for size:1073741824 bytes",
    # Libraries.
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "cuFFT error: CUFFT_ALLOC_FAILED",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    (
        "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:1275, unhandled cuda "
        "error, NCCL version 2.20.5\nLast error:\nCuda failure 2 'out of memory'"
    ),
]
HOST = [
    "[enforce fail at alloc_cpu.cpp:83] . C10 Out of Memory. Trying to allocate 12884901888 bytes",
    (
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    (
        "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 12582912000 bytes."
    ),
    "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
    "OSError: [Errno 12] Cannot allocate memory",
    "libgomp: Out of memory allocating 4096 bytes",
    "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
]
CERTAIN = [*CARD, *HOST]
PROBABLE = [
    (
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
        "non-contiguous input."
    ),
    (
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR\nYou can try to repro this exception using the "
        "following code snippet."
    ),
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    (
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":995, '
        "please report a bug to PyTorch. "
    ),
    (
        '!handles_.at(i) INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":337, '
        "please report a bug to PyTorch. "
    ),
    "CUDA driver error: device not ready",
    "Failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED",
]
KERNEL_LIMITS = [
    (
        "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got "
        "false.  (Could this error message be improved?  If so, please report an enhancement "
        "request to PyTorch.)"
    ),
    "input tensor must fit into 32-bit index math",
    (
        "upsample_bilinear2d only supports output tensors with less than INT_MAX elements, but got "
        "[54, 19, 1024, 2048]"
    ),
    "Expected output.numel() <= std::numeric_limits<int32_t>::max() to be true, but got false.",
    "Input/Output tensor is too large.",
    "tensor is too large for the channels_last CUDA kernel launch",
    "integer out of range",
    "value cannot be safely converted without overflow",
    (
        "CUDA error: invalid configuration argument\nCUDA kernel errors might be asynchronously "
        "reported at some other API call."
    ),
]
BUGS = [
    (
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be "
        "asynchronously reported at some other API call."
    ),
    (
        "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to enable "
        "device-side assertions."
    ),
    "required rank 4 tensor to use channels_last format",
    # Messages that mention memory, but are not about a lack of it.
    "Unsupported memory format. Supports channels_last and contiguous",
    "memory format option is only supported by strided tensors",
    (
        "unsupported operation: more than one element of the written-to tensor refers to a single "
        "memory location. Please clone() the tensor before performing the operation."
    ),
    "[ExpandableSegmentVA] Failed to reserve 1099511627776 bytes of address space",
    (
        "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned in page-locked "
        "memory"
    ),
    "the user ran out of memory cards",
    "mat1 and mat2 shapes cannot be multiplied (4x2048 and 512x19)",
    "CUDA error: no kernel image is available for execution on the device",
    "HIP error: no kernel image is available for execution on the device",
    "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm`",
    "",
]


PROBABLE_ON_HOST = [
    "could not create a primitive descriptor for a convolution forward propagation primitive",
    "can't start new thread",
    "\nlibgomp: Thread creation failed: Resource temporarily unavailable",
]
CPU, CUDA, SIMULATED = DeviceKind.CPU, DeviceKind.CUDA, DeviceKind.SIMULATED
OUT_OF_MEMORY, HOST_MEMORY, FAILED = Outcome.OUT_OF_MEMORY, Outcome.HOST_MEMORY, Outcome.FAILED
MEANINGS = {
    "card": (CARD, Certainty.CERTAIN, {CPU: FAILED, CUDA: OUT_OF_MEMORY, SIMULATED: FAILED}),
    "perhaps card": (
        PROBABLE,
        Certainty.PROBABLE,
        {CPU: FAILED, CUDA: OUT_OF_MEMORY, SIMULATED: FAILED},
    ),
    "host": (
        HOST,
        Certainty.CERTAIN,
        {CPU: OUT_OF_MEMORY, CUDA: HOST_MEMORY, SIMULATED: HOST_MEMORY},
    ),
    "perhaps host": (
        PROBABLE_ON_HOST,
        Certainty.PROBABLE,
        {CPU: OUT_OF_MEMORY, CUDA: HOST_MEMORY, SIMULATED: HOST_MEMORY},
    ),
}
"""By kind of memory: messages about its exhaustion, their certainty, and the outcomes by device."""


@pytest.mark.parametrize("kind", DeviceKind)
@pytest.mark.parametrize(
    ("memory", "message"),
    [(memory, message) for memory, (messages, _, _) in MEANINGS.items() for message in messages],
    ids=lambda text: text[:40],
)
def test_a_message_about_a_memory_is_classified_by_the_device(
    memory: str, message: str, kind: DeviceKind
) -> None:
    _, certainty, outcomes = MEANINGS[memory]
    for types in ((), ("RuntimeError", "Exception"), ("AcceleratorError", "RuntimeError")):
        verdict = classify(kind, types=types, message=message)
        assert verdict.outcome is outcomes[kind]
        assert classify(kind, types=types, message=message.upper()) == verdict
        if verdict.outcome is not FAILED:
            assert verdict.certainty is certainty
            assert verdict.evidence.casefold() in message.casefold()


@pytest.mark.parametrize("kind", DeviceKind)
@pytest.mark.parametrize("message", KERNEL_LIMITS, ids=lambda message: message[:40])
def test_an_index_that_overflows_is_a_kernel_limit(message: str, kind: DeviceKind) -> None:
    verdict = classify(kind, types=("RuntimeError", "Exception"), message=message)
    assert (verdict.outcome, verdict.certainty) == (Outcome.KERNEL_LIMIT, Certainty.CERTAIN)


@pytest.mark.parametrize("kind", DeviceKind)
@pytest.mark.parametrize("message", BUGS, ids=lambda message: message[:40])
def test_a_bug_never_counts_as_out_of_memory(message: str, kind: DeviceKind) -> None:
    assert classify(kind, types=("RuntimeError", "Exception"), message=message).outcome is FAILED


@pytest.mark.parametrize("kind", DeviceKind)
def test_one_image_on_a_map_of_one_pixel_is_a_batch_too_small(kind: DeviceKind) -> None:
    verdict = classify(
        kind,
        types=("ValueError", "Exception"),
        message="Expected more than 1 value per channel when training, got input size "
        "torch.Size([1, 256, 1, 1])",
    )
    assert verdict == Verdict(
        outcome=Outcome.BATCH_TOO_SMALL, evidence="Expected more than 1 value per channel"
    )


SIMULATED_ERROR = ("SimulatedOutOfMemoryError", "MemoryError", "Exception")


@pytest.mark.parametrize(
    ("kind", "types", "outcome", "evidence"),
    [
        (CUDA, ("OutOfMemoryError", "RuntimeError", "object"), OUT_OF_MEMORY, "OutOfMemoryError"),
        (CUDA, ("MyOutOfMemory", "OutOfMemoryError"), OUT_OF_MEMORY, "OutOfMemoryError"),
        (CUDA, ("_ArrayMemoryError", "MemoryError"), HOST_MEMORY, "MemoryError"),
        (CPU, ("_ArrayMemoryError", "MemoryError"), OUT_OF_MEMORY, "MemoryError"),
        (CPU, ("OutOfMemoryError", "RuntimeError"), FAILED, "OutOfMemoryError"),
        (SIMULATED, SIMULATED_ERROR, OUT_OF_MEMORY, "SimulatedOutOfMemoryError"),
        (SIMULATED, ("MemoryError", "Exception"), HOST_MEMORY, "MemoryError"),
        (SIMULATED, ("OutOfMemoryError", "RuntimeError"), FAILED, "OutOfMemoryError"),
    ],
)
def test_the_exception_type_alone_is_enough(
    kind: DeviceKind, types: tuple[str, ...], outcome: Outcome, evidence: str
) -> None:
    expected = Verdict(outcome=outcome, evidence=evidence)
    assert classify(kind, types=types) == expected
    assert classify(kind, types=types, message="words nobody has seen before") == expected


def test_the_simulated_allocators_error_is_named_as_it_is_recognised() -> None:
    assert SimulatedOutOfMemoryError.__name__ == SIMULATED_ERROR[0]


@pytest.mark.parametrize("device", DeviceKind)
@pytest.mark.parametrize("kind", ["RuntimeError", "AcceleratorError", "ValueError", "OSError"])
def test_another_exception_type_alone_is_a_bug(kind: str, device: DeviceKind) -> None:
    expected = Verdict(outcome=FAILED, evidence=kind)
    assert classify(device, types=(kind, "Exception"), message="no words about it") == expected


@pytest.mark.parametrize("kind", DeviceKind)
@pytest.mark.parametrize(
    ("status", "manner"),
    [
        (-9, "killed by SIGKILL"),
        (-signal.SIGABRT, "killed by SIGABRT"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-signal.SIGTERM, "killed by SIGTERM"),
        *((status, f"exit status {status}") for status in (0, 1, 9, 134, 137, 139, 255, -200)),
    ],
)
def test_a_death_without_evidence_is_unexplained(
    kind: DeviceKind, status: int, manner: str
) -> None:
    for words in ("", "Fatal Python error: Segmentation fault"):
        assert classify_death(kind, exit_status=status, last_words=words) == Verdict(
            outcome=FAILED, certainty=Certainty.UNEXPLAINED, evidence=manner
        )


@pytest.mark.parametrize("killed", KernelKill)
@pytest.mark.parametrize(
    ("kind", "outcome"), [(CPU, OUT_OF_MEMORY), (CUDA, HOST_MEMORY), (SIMULATED, HOST_MEMORY)]
)
def test_a_kill_by_the_kernel_is_about_the_memory_of_the_machine(
    kind: DeviceKind, outcome: Outcome, killed: KernelKill
) -> None:
    certainty = {KernelKill.OWN_GROUP: Certainty.CERTAIN, KernelKill.MACHINE: Certainty.PROBABLE}
    assert classify_death(kind, exit_status=-9, killed=killed) == Verdict(
        outcome=outcome, certainty=certainty[killed], evidence=killed
    )
    for other in (-signal.SIGSEGV, 137, 0):  # the kernel has killed another process
        verdict = classify_death(kind, exit_status=other, killed=killed)
        assert verdict.certainty is Certainty.UNEXPLAINED


def test_the_standard_error_of_a_dead_process_outweighs_its_exit_status() -> None:
    said = partial(classify_death, exit_status=-signal.SIGABRT)
    certain = said(CUDA, last_words="what():  CUDA error: out of memory")
    assert (certain.outcome, certain.certainty) == (OUT_OF_MEMORY, Certainty.CERTAIN)
    bug = said(CUDA, last_words="CUDA error: device-side assert triggered")
    assert (bug.outcome, bug.certainty) == (FAILED, Certainty.CERTAIN)
    assert said(CPU, last_words="std::bad_alloc").outcome is OUT_OF_MEMORY
    assert said(CUDA, last_words="std::bad_alloc").outcome is HOST_MEMORY


def failure(evidence: str, certainty: Certainty = Certainty.CERTAIN) -> Failure:
    return Failure(message="", certainty=certainty, evidence=evidence, phase="step 1")


@pytest.mark.parametrize(
    ("kind", "evidence", "expected"),
    [
        (CPU, "DefaultCPUAllocator: can't allocate memory", True),
        (CPU, KernelKill.OWN_GROUP, True),
        (CPU, "killed by SIGKILL", False),  # as earlier versions recorded it
        (CUDA, "out of memory. Tried to allocate", True),
        (CUDA, "killed by SIGKILL", False),
        (CUDA, KernelKill.OWN_GROUP, False),
        (CUDA, "std::bad_alloc", False),
        (SIMULATED, "SimulatedOutOfMemoryError", True),
        (SIMULATED, "DefaultCPUAllocator: can't allocate memory", False),
        (SIMULATED, "MemoryError", False),
    ],
)
def test_an_earlier_verdict_counts_if_its_evidence_is_still_one(
    kind: DeviceKind, evidence: str, *, expected: bool
) -> None:
    assert failure(evidence).proves(OUT_OF_MEMORY, kind) is expected


def test_host_memory_and_an_unexplained_death_do_not_prove_an_outcome() -> None:
    for outcome, certainty, expected in (
        (HOST_MEMORY, Certainty.CERTAIN, False),
        (FAILED, Certainty.UNEXPLAINED, False),
        (FAILED, Certainty.CERTAIN, True),
        (Outcome.KERNEL_LIMIT, Certainty.CERTAIN, True),
        (Outcome.TIMED_OUT, Certainty.CERTAIN, True),
    ):
        assert failure("x", certainty).proves(outcome, CUDA) is expected


def test_only_the_two_ways_of_fitting_count_as_having_run() -> None:
    assert {Outcome.FITS, Outcome.FITS_WITH_RETRIES} == RAN
