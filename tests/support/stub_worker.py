"""A worker without torch that behaves towards its parent as its argument says.

Like a real worker, it ends with its standard input.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def say(kind: str, **body: object) -> None:
    print(json.dumps({"kind": kind, **body}), flush=True)  # noqa: T201 - to the parent


CAPACITY_BYTES = 2**30
READY = {"torch": "0", "cuda": None, "cudnn": None, "cpu_threads": 1}
MEASURED = {"source": "measured", "total_bytes": CAPACITY_BYTES, "capacity_bytes": CAPACITY_BYTES}
CPU = {**MEASURED, "kind": "cpu", "name": "stub"}
GPU = {
    **dict.fromkeys(("total_bytes", "capacity_bytes"), 25_296_896_000),
    "kind": "cuda",
    "name": "NVIDIA GeForce RTX 3090",
    "source": "measured",
    "compute_capability": "8.6",
    "driver": "580.65.06",
    "notes": ["NVML did not answer."],
}
UNKNOWN_GPU = {**GPU, "name": "NVIDIA Imaginary 1", "compute_capability": "13.0", "notes": []}
DEVICES = {"gpu": GPU, "unknown-gpu": UNKNOWN_GPU}
MEASUREMENT = {
    "model": {"parameters": 1, "groups": [["all", 1.0]]},
    "first_step": {"allocated_bytes": 100, "reserved_bytes": None},
    "steady": {"allocated_bytes": 200, "reserved_bytes": None},
    "updates_applied": 4,
    "steps": 4,
}
STEP_SECONDS = 0.1


def timed(spec: dict[str, Any], **changes: object) -> dict[str, object]:
    """Return the measurement of a trial, with the times of as many steps as it asks for."""
    images = spec["batch_size"] * spec["accumulation_steps"]
    times = {
        "step_seconds": [STEP_SECONDS] * spec["measured_steps"],
        "images_per_second": images / STEP_SECONDS,
    }
    return {**MEASUREMENT, **times, **changes}


def succeed(spec: dict[str, Any], *, clean: bool = True) -> None:
    say("Progress", phase="step 1")
    say("TrialDone", outcome="fits", measurement=timed(spec), failure=None, clean=clean)


def succeed_on_gpu(spec: dict[str, Any], outside_allocator_bytes: int) -> None:
    peak = {"allocated_bytes": 200, "reserved_bytes": 2**21}
    measured = timed(
        spec, first_step=peak, steady=peak, outside_allocator_bytes=outside_allocator_bytes
    )
    say("TrialDone", outcome="fits", measurement=measured, failure=None, clean=True)


def die_with_child() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    say("Progress", phase=f"child {child.pid}")
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    say("Progress", phase="step 2")
    time.sleep(600)


def abort() -> None:
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    sys.stderr.flush()
    os.abort()


FIXED_BYTES, IMAGE_BYTES, ACCUMULATED_BYTES = 200 * 2**20, 120 * 2**20, 40 * 2**20
LARGEST = 6
"""The largest batch that fits on such a device of 1 GiB."""


def run_by_arithmetic(spec: dict[str, Any]) -> None:
    """Fit or fail by a memory use that is affine in the batch."""
    needed = needed_bytes(spec)
    time.sleep(0.01)  # time in which a test can kill it
    if needed > CAPACITY_BYTES:
        failed("out of memory", f"RuntimeError: {FULL}")
    else:
        peak = {"allocated_bytes": needed, "reserved_bytes": None}
        body = timed(spec, first_step=peak, steady=peak)
        say("TrialDone", outcome="fits", measurement=body, failure=None, clean=True)


def needed_bytes(spec: dict[str, Any]) -> int:
    accumulated = ACCUMULATED_BYTES if spec["accumulation_steps"] > 1 else 0
    return FIXED_BYTES + accumulated + int(spec["batch_size"]) * IMAGE_BYTES


FULL = "DefaultCPUAllocator: can't allocate memory"


def failed(outcome: str, message: str) -> None:
    evidence = FULL if FULL in message else "RuntimeError"
    failure = {"message": message, "certainty": "certain", "evidence": evidence, "phase": "step 1"}
    say("TrialDone", outcome=outcome, measurement=None, failure=failure, clean=False)


def be_killed_where_memory_ends(spec: dict[str, Any]) -> None:
    """Die by SIGKILL without output if memory is exceeded."""
    if spec["batch_size"] > LARGEST:
        os.kill(os.getpid(), signal.SIGKILL)
    run_by_arithmetic(spec)


def run_short_of_memory_and_abort(spec: dict[str, Any]) -> None:
    """Abort like the C++ standard library if memory is exceeded."""
    if spec["batch_size"] > LARGEST:
        abort()
    run_by_arithmetic(spec)


def train_together(spec: dict[str, Any]) -> None:
    """Give rank 1 less memory than rank 0; rank 0 then waits for ever, as in a collective."""
    if spec["batch_size"] <= LARGEST:
        run_by_arithmetic(spec)
    elif os.environ["RANK"] == "1":
        failed("out of memory", f"RuntimeError: {FULL}")
    else:
        hang()


def lose_rank_1_once(spec: dict[str, Any]) -> None:
    """Kill rank 1 in the trial of batch 4, while rank 0 waits for it."""
    seen = Path(f"seen-{os.environ['RANK']}")
    if spec["batch_size"] == 4 and not seen.exists():
        seen.touch()
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        hang()
    train_together(spec)


def wait_from_the_third_on(spec: dict[str, Any]) -> None:
    """Wait so long that a test can act on the parents; a file shows when."""
    if spec["batch_size"] > 2:
        Path(f"waiting-{os.environ.get('RANK', 'alone')}").touch()
        hang()
    run_by_arithmetic(spec)


def lose_the_gpu(spec: dict[str, Any]) -> None:
    """Lose the GPU in the third trial; the file that counts trials outlives the process."""
    count = len(gpu_log().read_text()) if gpu_log().exists() else 0
    gpu_log().write_text("." * (count + 1))
    if count == 2:
        failed("failed", "AcceleratorError: CUDA error: unspecified launch failure")
    else:
        run_by_arithmetic(spec)


def gpu_log() -> Path:
    return Path(os.environ["STUB_GPU_LOG"])


def gpu_is_lost() -> bool:
    return "STUB_GPU_LOG" in os.environ and gpu_log().exists() and len(gpu_log().read_text()) > 2


BY_SPEC: dict[str, Callable[[dict[str, Any]], None]] = {
    "arithmetic": run_by_arithmetic,
    "killed": be_killed_where_memory_ends,
    "aborted": run_short_of_memory_and_abort,
    "gpu-lost": lose_the_gpu,
    "together": train_together,
    "together-killed": lose_rank_1_once,
    "hang-at-4": wait_from_the_third_on,
    "succeed": succeed,
    "dirty": lambda spec: succeed(spec, clean=False),
    "gpu": lambda spec: succeed_on_gpu(spec, 300 * 2**20 + 1),
    "unknown-gpu": lambda spec: succeed_on_gpu(spec, 200 * 2**20),
}
BEHAVIOURS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "die-with-child": die_with_child,
    "hang": hang,
    "abort": abort,
    "exit": lambda: sys.exit(7),
    "nonsense": lambda: print("<html>", flush=True),  # noqa: T201 - to the parent
    "refuse": lambda: say("Refused", message="no such thing", hint="try another"),
}


def requests() -> Iterator[dict[str, Any]]:
    inbox: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            inbox.put(line)
        os._exit(3)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield json.loads(inbox.get())


def main() -> None:
    behaviour = sys.argv[1]
    if behaviour == "fail-to-start":
        sys.exit("ImportError: libcudart.so.13 not found")
    for message in requests():
        kind = message["kind"]
        if kind == "OpenDevice" and behaviour == "refuse-device":
            say("Refused", message="no GPU", hint="buy one")
        elif kind == "OpenDevice" and behaviour == "refuse-rank-1" and os.environ["RANK"] == "1":
            say("Refused", message="there is no GPU 1", hint="start fewer processes")
        elif kind == "OpenDevice" and behaviour == "gpu-lost" and gpu_is_lost():
            say("Refused", message="there is no GPU in this machine", hint="probe the CPU")
        elif kind == "OpenDevice":
            device = DEVICES.get(behaviour, CPU)
            limit = message["request"]["memory_limit_bytes"] or device["capacity_bytes"]
            if device is CPU:  # whose capacity is always a limit
                device = {**CPU, "limit_bytes": limit, "capacity_bytes": limit}
            say("Ready", **READY, device=device)
        elif behaviour == "answer":
            print(sys.argv[2], flush=True)  # noqa: T201 - to the parent
        elif behaviour in BY_SPEC:
            BY_SPEC[behaviour](message["spec"])
        else:
            BEHAVIOURS[behaviour]()


if __name__ == "__main__":
    main()
