"""How much cuDNN's workspaces depend on the description of the card.

Asks for the first plan of the convolutions of some networks with each property of the card changed
in turn, all else kept, and counts the workspaces that change. This is why one description for each
compute capability serves all its cards. Run it from a checkout; a few minutes:

    python benchmarks/workspace_sensitivity.py [compute capability ...]
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.network_convolutions import CAPABILITIES, all_forward, in_every_way
from bsprobe.records.units import MIB
from bsprobe.simulate.cudnn.convolutions import Backend, Convolution, backend_of, version_text
from bsprobe.simulate.cudnn.plans import CudnnPlans, described_card

Card = dict[str, Any]

EVERY = 5
"""Of all convolutions, dtypes, layouts and directions every fifth is asked for."""
MUCH_BYTES = 16 * MIB


def scaled(factor: float, *keys: str) -> Callable[[Card], Card]:
    """A change that multiplies some properties."""
    return lambda card: card | {key: int(card[key] * factor) for key in keys}


CHANGES: dict[str, Callable[[Card], Card]] = {
    "SMs x 0.5": scaled(0.5, "multiProcessorCount"),
    "SMs x 0.8": scaled(0.8, "multiProcessorCount"),
    "SMs x 1.3": scaled(1.3, "multiProcessorCount"),
    "clocks x 0.7": scaled(0.7, "smClockRateKHz", "memClockRateKHz"),
    "SM clock x 0.7": scaled(0.7, "smClockRateKHz"),
    "SM clock x 1.3": scaled(1.3, "smClockRateKHz"),
    "L2 x 0.25": scaled(0.25, "l2CacheSize"),
    "L2 x 4": scaled(4, "l2CacheSize"),
    "memory x 0.25": scaled(0.25, "totalGlobalMem"),
    "memory x 4": scaled(4, "totalGlobalMem"),
    "oversized shared memory 1 MiB": lambda card: card | {"oversizedSharedMemoryPerBlock": MIB},
    "driver 12.4": lambda card: card | {"driverVer": 12040},
}


def first_workspaces(card: Card, convolutions: Sequence[Convolution]) -> list[int]:
    """Bytes of the first plan of each convolution, -1 where there is none."""
    plans = CudnnPlans(card, allow_tf32=True, deterministic=False)
    return [next(iter(plans.workspaces(each)), -1) for each in convolutions]


def compare(name: str, base: list[int], other: list[int]) -> None:
    """Print how many workspaces differ, and by how much."""
    pairs = list(zip(base, other, strict=True))
    differing = [abs(after - before) for before, after in pairs if after != before]
    much = sum(difference > MUCH_BYTES for difference in differing)
    print(
        f"  {name:<30} {len(differing):>5} of {len(pairs)} differ, {much} by more than "
        f"{MUCH_BYTES // MIB} MiB, at most {max(differing, default=0) / MIB:.0f} MiB"
    )


def main(capabilities: list[tuple[int, int]]) -> None:
    """Print a block for each compute capability."""
    material = all_forward()
    bases: dict[tuple[int, int], list[int]] = {}
    for capability in capabilities:
        card = described_card(capability)[1]
        version = CudnnPlans(card, allow_tf32=True, deterministic=False).version
        asked = [
            each
            for each in list(in_every_way(material))[::EVERY]
            if backend_of(each, capability=capability, cudnn_version=version) is Backend.CUDNN
        ]
        bases[capability] = first_workspaces(card, asked)
        print(
            f"{capability[0]}.{capability[1]} ({card['deviceName']}), cuDNN {version_text(version)}"
        )
        for name, change in CHANGES.items():
            compare(name, bases[capability], first_workspaces(change(card), asked))
        for other, base in bases.items():
            if other != capability:
                compare(f"against {other[0]}.{other[1]}", base, bases[capability])


if __name__ == "__main__":
    chosen = [tuple(map(int, argument.split("."))) for argument in sys.argv[1:]]
    main([(major, minor) for major, minor in chosen or CAPABILITIES])
