"""Exact peaks of a recorded trial, and the tolerance above a memory limit on a GPU."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.validation.history import ReplayResult, _decode
from benchmarks.validation.replay import replay_addresses
from bsprobe.records.explanations import Explanation
from bsprobe.records.trials import Measurement
from bsprobe.records.units import MIB
from bsprobe.simulate.allocator.rules import DEFAULT_RULES

LOADED_LATER_BYTES: Final = 256 * MIB
"""Memory that a process may take outside the allocator after its limit was set.

The limit bounds the reserved memory of the allocator. CUDA loads a kernel when it is first called,
so libraries grow during the trial. Loading all of PyTorch's kernels at once took 380 MB
(pytorch/pytorch#86509), of which those of a first convolution and norm are loaded before.
"""


def stays_within(limit_bytes: int, measured: Measurement | Explanation) -> bool:
    """True if the allocator stayed below a limit, and the whole process near it."""
    reserved = measured.peak_reserved_bytes
    assert reserved is not None
    return reserved < limit_bytes and measured.peak_bytes <= limit_bytes + LOADED_LATER_BYTES


def beginning(snapshot: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    """Return the first snapshot of a recording, from its last one.

    In a new process it has one free segment, which remains in the cache after opening the GPU.
    """
    found = {
        each["address"]: (each["total_size"], each["stream"])
        for each in snapshot["segments"]
        if each["device"] == index
    }
    for entry in reversed(snapshot["device_traces"][index]):
        if entry["action"] == "segment_alloc":
            found.pop(entry["addr"])
        elif entry["action"] == "segment_free":
            found[entry["addr"]] = entry["size"], entry["stream"]
    small = DEFAULT_RULES.small_segment_bytes
    return {
        "segments": [
            {
                "device": index,
                "address": address,
                "total_size": size,
                "stream": stream,
                "segment_type": "small" if size == small else "large",
                "blocks": [],
            }
            for address, (size, stream) in found.items()
        ]
    }


def replayed(history: Mapping[str, Any]) -> ReplayResult:
    """Replay a reduced recording with its initial state on the simulated allocator.

    If 1 MiB or less would remain of a large block, the block is not split, so a block may be larger
    than its request; only a replay shows by how much. No block was allocated before the recording.
    """
    told = {"name": "recorded", "peak_allocated": 0, "peak_reserved": 0}
    return replay_addresses(_decode({**history, **told}))
