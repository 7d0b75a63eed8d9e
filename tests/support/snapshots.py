"""Hand-made results of `torch.cuda.memory._snapshot()`, in PyTorch's structure.

Source of the keys: torch/csrc/cuda/memory_snapshot.cpp and torch/cuda/memory.py, PyTorch 2.15.
"""

from typing import Any

from bsprobe.records.units import MIB

SETTINGS = {"PYTORCH_CUDA_ALLOC_CONF": "", "max_split_size": -1, "expandable_segments": False}
EMPTY: dict[str, Any] = {
    "segments": [],
    "device_traces": [[]],
    "allocator_settings": SETTINGS,
    "external_annotations": [],
}
BASE = 140_000_000_000_000
CONVOLUTION = [
    {"filename": "/x/site-packages/torch/nn/modules/conv.py", "line": 548, "name": "forward"},
    {"filename": "/x/site-packages/torch/nn/modules/module.py", "line": 1751, "name": "_call_impl"},
    {"filename": "/elsewhere/nets.py", "line": 7, "name": "forward"},
]


def entry(action: str, address: int, size: int, **more: Any) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size, "stream": 0, "time_us": 1, **more}


MARK = entry("snapshot", 0, 0)


def block(address: int, size: int, requested: int, state: str) -> dict[str, Any]:
    return {
        "address": address,
        "size": size,
        "requested_size": requested,
        "state": state,
        "frames": [],
    }


LARGE = 21 * MIB
"""A request that gets its own segment of 22 MiB, all of it used by the block."""
TRACE = [
    MARK,
    entry("segment_alloc", BASE, 2 * MIB),
    entry("alloc", BASE, 600, frames=CONVOLUTION),
    MARK,
    entry("segment_alloc", BASE - 22 * MIB, 22 * MIB),
    entry("alloc", BASE - 22 * MIB, LARGE),
    entry("free_requested", BASE - 22 * MIB, LARGE),
    entry("free_completed", BASE - 22 * MIB, LARGE),
    entry("segment_free", BASE - 22 * MIB, 22 * MIB),
    entry("alloc", BASE + 1024, 512, frames=CONVOLUTION),
]
AFTER: dict[str, Any] = {
    **EMPTY,
    "device_traces": [TRACE],
    "segments": [
        {
            "device": 0,
            "address": BASE,
            "total_size": 2 * MIB,
            "allocated_size": 0,
            "active_size": 0,
            "requested_size": 0,
            "stream": 0,
            "segment_type": "small",
            "segment_pool_id": (0, 0),
            "is_expandable": False,
            "frames": [],
            "blocks": [
                block(BASE, 1024, 600, "active_allocated"),
                block(BASE + 1024, 512, 512, "active_allocated"),
                block(BASE + 1536, 2 * MIB - 1536, 0, "inactive"),
            ],
        }
    ],
}
PEAK_ALLOCATED = 22 * MIB + 1024
PEAK_RESERVED = 24 * MIB
_CODES = {"segment_alloc": "S", "alloc": "a", "free_completed": "f", "segment_free": "F"}
EVENTS = [
    [_CODES[each["action"]], each["addr"], each["size"], 0]
    for each in TRACE
    if each["action"] in _CODES
]
