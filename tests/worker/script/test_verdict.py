"""The outcome of a command by its exit status, its last lines and the kernel's counters."""

import pytest

from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Certainty, KernelKill, Outcome
from bsprobe.records.scripts import View
from bsprobe.worker.script.seen import RanOut, Seen
from bsprobe.worker.script.verdict import End, Ending, decided

CPU, CUDA = DeviceKind.CPU, DeviceKind.CUDA
TRACEBACK = "Traceback (most recent call last):\n  File 'train.py', line 1\n"
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
HOST = "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"
NUMPY = "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 8.00 GiB for an array"
LAUNCHER = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError:\n" + "=" * 60


def end(status: int, output: str = "", killed: KernelKill | None = None) -> End:
    return End(
        ending=Ending.EXITED,
        exit_status=status,
        output=output,
        killed=killed,
        seconds=120,
        phase="step 1 of 5",
    )


def outcome(made: End, kind: DeviceKind, *seen: Seen) -> tuple[Outcome, Certainty | None]:
    found, failure = decided(made, seen, View.INSIDE, kind)
    return found, None if failure is None else failure.certainty


@pytest.mark.parametrize("kind", [CPU, CUDA])
@pytest.mark.parametrize("status", [-9, 137])
def test_a_kill_is_a_lack_of_memory_only_by_evidence(status: int, kind: DeviceKind) -> None:
    assert outcome(end(status), kind) == (Outcome.FAILED, Certainty.UNEXPLAINED)
    own = outcome(end(status, killed=KernelKill.OWN_GROUP), kind)
    lack = Outcome.OUT_OF_MEMORY if kind is CPU else Outcome.HOST_MEMORY
    assert own == (lack, Certainty.CERTAIN)
    machine = outcome(end(status, killed=KernelKill.MACHINE), kind)
    assert machine == (lack, Certainty.PROBABLE)


def test_a_launcher_whose_rank_the_kernel_killed_exits_with_1() -> None:
    killed = outcome(end(1, LAUNCHER, killed=KernelKill.OWN_GROUP), CPU)
    assert killed == (Outcome.OUT_OF_MEMORY, Certainty.CERTAIN)


@pytest.mark.parametrize(
    ("output", "kind", "expected"),
    [
        (TRACEBACK + OUT_OF_MEMORY, CUDA, Outcome.OUT_OF_MEMORY),
        (f"[rank1]: {TRACEBACK}[rank1]: {OUT_OF_MEMORY}\n{LAUNCHER}", CUDA, Outcome.OUT_OF_MEMORY),
        (TRACEBACK + HOST, CPU, Outcome.OUT_OF_MEMORY),
        (TRACEBACK + HOST, CUDA, Outcome.HOST_MEMORY),
        (TRACEBACK + NUMPY, CPU, Outcome.OUT_OF_MEMORY),
        (TRACEBACK + NUMPY, CUDA, Outcome.HOST_MEMORY),
        (TRACEBACK + "MemoryError", CPU, Outcome.OUT_OF_MEMORY),
        ("Out of memory!", CPU, Outcome.OUT_OF_MEMORY),  # Perl
        (
            "FATAL ERROR: Reached heap limit JavaScript heap out of memory",
            CPU,
            Outcome.OUT_OF_MEMORY,
        ),
        ("skipped a batch: out of memory!", CUDA, Outcome.FAILED),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'",
            CPU,
            Outcome.OUT_OF_MEMORY,
        ),
        (TRACEBACK + "RuntimeError: CUDA error: an illegal memory access", CUDA, Outcome.FAILED),
        (TRACEBACK + "ValueError: not enough memory slots for MemoryError", CPU, Outcome.FAILED),
        ("MemoryError is the title of this song", CPU, Outcome.FAILED),
        (
            TRACEBACK + "ValueError: Expected more than 1 value per channel when training",
            CPU,
            Outcome.BATCH_TOO_SMALL,
        ),
        (TRACEBACK + "RuntimeError: canUse32BitIndexMath", CUDA, Outcome.KERNEL_LIMIT),
        (
            "usage: train.py [-h]\ntrain.py: error: unrecognized arguments: --bs",
            CPU,
            Outcome.FAILED,
        ),
        ("", CPU, Outcome.FAILED),
    ],
)
def test_the_last_lines_tell_a_lack_of_memory_from_a_bug(
    output: str, kind: DeviceKind, expected: Outcome
) -> None:
    assert outcome(end(1, output), kind) == (expected, Certainty.CERTAIN)


def test_a_message_names_the_last_exception_and_the_way_it_ended() -> None:
    output = f"{TRACEBACK}KeyError: 'a'\nDuring handling:\n{TRACEBACK}ValueError: b\nbye"
    _, failure = decided(end(2, output), (), View.INSIDE, CPU)
    assert failure is not None
    assert failure.message == "the command ended (exit status 2): ValueError: b"
    assert failure.traceback == output
    _, failure = decided(end(139), (), View.INSIDE, CPU)
    assert failure is not None
    assert "SIGSEGV" in failure.message


def test_an_exit_without_error_ran_unless_memory_ran_out() -> None:
    assert outcome(end(0, "done"), CPU) == (Outcome.FITS, None)
    assert outcome(end(0, "cannot allocate: skipped"), CUDA) == (Outcome.FITS, None)
    assert outcome(end(0, OUT_OF_MEMORY), CUDA)[0] is Outcome.OUT_OF_MEMORY
    numpy = Seen(pid=1, ran_out=[RanOut(message="_ArrayMemoryError: Unable to allocate 8.00 GiB")])
    assert outcome(end(0), CPU, numpy)[0] is Outcome.OUT_OF_MEMORY
    assert outcome(end(0), CUDA, numpy)[0] is Outcome.HOST_MEMORY
