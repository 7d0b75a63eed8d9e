"""A worker without torch: it does to its parent whatever a real one might, as its argument says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable


def say(kind: str, **body: object) -> None:
    sys.stdout.write(json.dumps({"kind": kind, **body}) + "\n")
    sys.stdout.flush()


READY = {
    "torch": "0",
    "cuda": None,
    "cudnn": None,
    "cpu_threads": 1,
}
CPU = {
    "kind": "cpu",
    "name": "stub",
    "source": "measured",
    "total_bytes": 2**30,
    "capacity_bytes": 2**30,
}
GPU = {
    "kind": "cuda",
    "name": "NVIDIA GeForce RTX 3090",
    "source": "measured",
    "total_bytes": 25_296_896_000,
    "capacity_bytes": 25_296_896_000,
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
    "step_seconds": [0.1, 0.1, 0.1],
    "images_per_second": 10.0,
}


def succeed(*, clean: bool = True, outside_allocator_bytes: int = 0) -> None:
    say("Progress", phase="step 1")
    measured = {**MEASUREMENT, "outside_allocator_bytes": outside_allocator_bytes}
    say("TrialDone", outcome="fits", measurement=measured, failure=None, clean=clean)


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


def babble() -> None:
    sys.stdout.write("<html>\n")
    sys.stdout.flush()


BEHAVIOURS: dict[str, Callable[[], object]] = {
    "succeed": succeed,
    "dirty": lambda: succeed(clean=False),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "die-with-child": die_with_child,
    "hang": hang,
    "abort": abort,
    "exit": lambda: sys.exit(7),
    "nonsense": babble,
    "gpu": lambda: succeed(outside_allocator_bytes=300 * 2**20 + 1),
    "unknown-gpu": lambda: succeed(outside_allocator_bytes=200 * 2**20),
    "refuse": lambda: say("Refused", message="no such thing", hint="try another"),
}


def main() -> None:
    behaviour = sys.argv[1]
    if behaviour == "fail-to-start":
        sys.exit("ImportError: libcudart.so.13 not found")
    for line in sys.stdin:
        kind = json.loads(line)["kind"]
        if kind == "OpenDevice" and behaviour == "refuse-device":
            say("Refused", message="no GPU", hint="buy one")
        elif kind == "OpenDevice":
            say("Ready", **READY, device=DEVICES.get(behaviour, CPU))
        elif behaviour == "answer":
            sys.stdout.write(sys.argv[2] + "\n")  # whatever was asked
            sys.stdout.flush()
        else:
            BEHAVIOURS[behaviour]()


if __name__ == "__main__":
    main()
