"""The exact peaks of a recorded trial, and how far above its limit a capped GPU may be."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.validation.history import ReplayResult, _decode
from benchmarks.validation.replay import replay_addresses
from bsprobe.records.explanations import Explanation
from bsprobe.records.trials import Measurement
from bsprobe.records.units import MIB
from bsprobe.simulate.allocator.rules import DEFAULT_RULES

LOADED_LATER_BYTES: Final = 256 * MIB
"""What a process may take outside the allocator after its limit was set.

The limit bounds what the allocator reserves. CUDA loads a kernel when it is first called, so that
libraries grow while the trial runs; loading all of PyTorch's kernels at once took 380 MB
(pytorch/pytorch#86509), of which those of a first convolution and norm are loaded before.
"""


def stays_within(limit_bytes: int, measured: Measurement | Explanation) -> bool:
    """Whether the allocator stayed below a limit, and the whole process near it."""
    reserved = measured.peak_reserved_bytes
    assert reserved is not None
    return reserved < limit_bytes and measured.peak_bytes <= limit_bytes + LOADED_LATER_BYTES


def beginning(snapshot: Mapping[str, Any], index: int = 0) -> dict[str, Any]:
    """The snapshot with which a recording began, from the one with which it ended.

    In a new process it has one free segment, which opening the GPU has left in the cache.
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
    """Replay a reduced recording with its beginning on the simulated allocator.

    Where 1 MiB or less would remain of a large block, it is handed out whole, so that a block may
    be larger than what was asked for: only a replay tells by how much. No block lived before.
    """
    told = {"name": "recorded", "peak_allocated": 0, "peak_reserved": 0}
    return replay_addresses(_decode({**history, **told}))
