"""A program that writes the records of a training script, without PyTorch.

Its arguments are a behaviour and a batch. Its memory grows with the batch: 10 MiB an image.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MIB = 2**20
FITS = 12
"""The largest batch that does not run out of memory."""


def record(kind: str, **fields: Any) -> None:
    """Write one record, as `inside/` does."""
    path = Path(os.environ["BSPROBE_RECORDS"]) / f"{os.getpid()}-1.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": kind, **fields}) + "\n")


def memory(batch: int, **fields: Any) -> dict[str, Any]:
    """The fields of a record of memory."""
    held = {
        "time": time.monotonic(),
        "device": "cpu",
        "allocated": batch * 10 * MIB,
        "reserved": None,
        "retries": 0,
        "ooms": 0,
        "benchmark": False,
        "held": 5 * MIB,
        "unused": MIB,
        "rank": 0,
        "world": 1,
    }
    return {**held, **fields}


def step(number: int, batch: int, **fields: Any) -> None:
    """Write the record of an optimizer step."""
    made = {"step": number, "optimizer": "AdamW", "rates": [0.001], "parameters": 1234}
    record("step", **made, **memory(batch, **fields))


def train(batch: int, steps: int = 1000, **fields: Any) -> None:
    """Make steps, and run out of memory above `FITS`."""
    record("torch", torch="2.9.0", python="3.11.2", limit="data above PyTorch")
    for number in range(1, steps + 1):
        if batch > FITS:
            raise MemoryError(f"batch {batch}")
        time.sleep(0.005)
        step(number, batch, **fields)


def swallow(batch: int) -> None:
    """Run out of memory and go on with half the batch."""
    while batch > FITS:
        record("oom", message="RuntimeError: DefaultCPUAllocator: can't allocate memory: 12 bytes")
        batch //= 2
    train(batch)


def grow(batch: int) -> None:
    """Hold 20 MiB more after every step."""
    record("torch", torch="2.9.0", python="3.11.2", limit="data above PyTorch")
    for number in range(1, 1000):
        step(number, batch, held=number * 20 * MIB)
        time.sleep(0.002)


def stubborn(batch: int) -> None:
    """Ignore SIGTERM, and start a process in a session of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    train(batch, 100_000)


def stop_stepping(batch: int) -> None:
    """Make two steps, then none."""
    train(batch, 2)
    time.sleep(600)


def import_alone(batch: int) -> None:
    """Import PyTorch and make no step."""
    del batch
    record("torch", torch="2.9.0", python="3.11.2", limit=None)
    time.sleep(600)


def fail_from_four(batch: int) -> None:
    """Fail at batch 4 for another reason than memory."""
    if batch >= 4:
        sys.exit(f"Traceback (most recent call last):\nValueError: {batch}")
    train(batch)


def late_from_four(batch: int) -> None:
    """Make no step from batch 4 on."""
    (import_alone if batch >= 4 else train)(batch)


BEHAVIOURS: dict[str, Callable[[int], Any]] = {
    "train": train,
    "short": lambda batch: train(batch, 3),
    "counted": lambda batch: train(batch, ooms=1),
    "benchmark": lambda batch: train(batch, ooms=1, benchmark=True),
    "retries": lambda batch: train(batch, retries=2),
    "swallow": swallow,
    "grow": grow,
    "stubborn": stubborn,
    "bug": fail_from_four,
    "stops": stop_stepping,
    "imports": import_alone,
    "late": late_from_four,
    "sleeps": lambda _: time.sleep(600),
    "killed": lambda _: os.kill(os.getpid(), signal.SIGKILL),
}

if __name__ == "__main__":
    BEHAVIOURS[sys.argv[1]](int(sys.argv[2]))
