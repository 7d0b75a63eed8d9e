"""What counts as out of memory, by every name it goes under."""

import signal

import pytest

from bsprobe.records.failures import RAN, Certainty, Outcome, Verdict, classify

CERTAIN = [
    # The caching allocator, in its ordinary words.
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
    "[enforce fail at alloc_cpu.cpp:83] . C10 Out of Memory. Trying to allocate 12884901888 bytes",
    # AMD, Intel, Apple: no CUDA in the words, and not always a full stop.
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
    # The CPU.
    (
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    (
        "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: not enough memory: you "
        "tried to allocate 12582912000 bytes."
    ),
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
    "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
]
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
    # These mention memory, or its end, and are no want of it.
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


@pytest.mark.parametrize("message", CERTAIN, ids=lambda message: message[:40])
def test_an_error_that_says_so_is_certainly_out_of_memory(message: str) -> None:
    for types in ((), ("RuntimeError", "Exception"), ("AcceleratorError", "RuntimeError")):
        verdict = classify(types=types, message=message)
        assert (verdict.outcome, verdict.certainty) == (Outcome.OUT_OF_MEMORY, Certainty.CERTAIN)
        assert verdict.evidence.casefold() in message.casefold()
        assert classify(types=types, message=message.upper()) == verdict


@pytest.mark.parametrize("message", PROBABLE, ids=lambda message: message[:40])
def test_what_libraries_say_when_memory_ends_is_probably_out_of_memory(message: str) -> None:
    verdict = classify(types=("RuntimeError", "Exception"), message=message)
    assert (verdict.outcome, verdict.certainty) == (Outcome.OUT_OF_MEMORY, Certainty.PROBABLE)
    assert verdict.evidence.casefold() in message.casefold()


@pytest.mark.parametrize("message", KERNEL_LIMITS, ids=lambda message: message[:40])
def test_an_index_that_overflows_is_a_kernel_limit(message: str) -> None:
    verdict = classify(types=("RuntimeError", "Exception"), message=message)
    assert (verdict.outcome, verdict.certainty) == (Outcome.KERNEL_LIMIT, Certainty.CERTAIN)


@pytest.mark.parametrize("message", BUGS, ids=lambda message: message[:40])
def test_a_bug_never_counts_as_out_of_memory(message: str) -> None:
    assert classify(types=("RuntimeError", "Exception"), message=message).outcome is Outcome.FAILED


def test_one_image_on_a_map_of_one_pixel_is_a_batch_too_small() -> None:
    verdict = classify(
        types=("ValueError", "Exception"),
        message="Expected more than 1 value per channel when training, got input size "
        "torch.Size([1, 256, 1, 1])",
    )
    assert verdict == Verdict(
        outcome=Outcome.BATCH_TOO_SMALL, evidence="Expected more than 1 value per channel"
    )


@pytest.mark.parametrize(
    ("types", "evidence"),
    [
        (("OutOfMemoryError", "RuntimeError", "Exception", "object"), "OutOfMemoryError"),
        (("MemoryError", "Exception"), "MemoryError"),
        (("MyOutOfMemory", "OutOfMemoryError", "RuntimeError"), "OutOfMemoryError"),
    ],
)
def test_the_type_alone_is_enough(types: tuple[str, ...], evidence: str) -> None:
    expected = Verdict(outcome=Outcome.OUT_OF_MEMORY, evidence=evidence)
    assert classify(types=types) == expected
    assert classify(types=types, message="words nobody has seen before") == expected


@pytest.mark.parametrize("kind", ["RuntimeError", "AcceleratorError", "ValueError", "OSError"])
def test_other_types_alone_say_nothing(kind: str) -> None:
    expected = Verdict(outcome=Outcome.FAILED, evidence=kind)
    assert classify(types=(kind, "Exception"), message="no words about it") == expected


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (-9, "SIGKILL"),
        (137, "SIGKILL"),
        (-signal.SIGABRT, "SIGABRT"),
        (134, "SIGABRT"),
        (-signal.SIGSEGV, "SIGSEGV"),
        (139, "SIGSEGV"),
    ],
)
def test_a_death_that_the_lack_of_memory_causes_is_probably_that(status: int, name: str) -> None:
    assert classify(exit_status=status) == Verdict(
        outcome=Outcome.OUT_OF_MEMORY, certainty=Certainty.PROBABLE, evidence=f"killed by {name}"
    )


@pytest.mark.parametrize("status", [0, 1, 2, 3, 101, 128, 130, 143, 255, -2, -15, -200, 9])
def test_any_other_end_of_the_process_is_a_bug(status: int) -> None:
    expected = Verdict(outcome=Outcome.FAILED, evidence=f"exit status {status}")
    assert classify(exit_status=status) == expected


def test_the_last_words_of_a_dead_process_outweigh_the_manner_of_its_death() -> None:
    aborted = -signal.SIGABRT
    certain = classify(message="what():  CUDA error: out of memory", exit_status=aborted)
    assert (certain.outcome, certain.certainty) == (Outcome.OUT_OF_MEMORY, Certainty.CERTAIN)
    bug = classify(message="CUDA error: device-side assert triggered", exit_status=aborted)
    assert bug.outcome is Outcome.FAILED


def test_only_the_two_ways_of_fitting_count_as_having_run() -> None:
    assert {Outcome.FITS, Outcome.FITS_WITH_RETRIES} == RAN
