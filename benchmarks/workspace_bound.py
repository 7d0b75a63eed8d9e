"""The bound that stands in for cuDNN, held against cuDNN's own answers.

Run it from a checkout; a minute:

    python benchmarks/workspace_bound.py
"""

from collections.abc import Sequence
from statistics import median

from benchmarks.network_convolutions import CAPABILITIES, all_forward, in_every_way
from bsprobe.records.units import MIB
from bsprobe.simulate.cudnn.convolutions import (
    Backend,
    Convolution,
    backend_of,
    upper_bound_bytes,
    version_text,
)
from bsprobe.simulate.cudnn.plans import CudnnPlans, described_card

LEAST_BYTES = MIB
"""Ratios to less than this say nothing."""


def report(name: str, pairs: Sequence[tuple[int, int]]) -> None:
    """Print a line about pairs of (bytes of cuDNN's first plan, bound)."""
    exceeded = [true - bound for true, bound in pairs if true > bound]
    ratios = [bound / true for true, bound in pairs if true >= LEAST_BYTES]
    excess = median(bound - true for true, bound in pairs)
    print(
        f"{name:<28} {len(pairs):>6} asked; exceeded {len(exceeded):>4} times "
        f"({len(exceeded) / len(pairs):.2%}), by at most {max(exceeded, default=0) / MIB:.0f} MiB; "
        f"median {median(ratios):.2f} times, {excess / MIB:.0f} MiB too high"
    )


def pairs_for(
    capability: tuple[int, int], material: Sequence[Convolution]
) -> list[tuple[Convolution, int, int]]:
    """(convolution, bytes of cuDNN's first plan, bound) of all that have a plan."""
    plans = CudnnPlans(described_card(capability)[1], allow_tf32=True, deterministic=False)
    print(f"cuDNN {version_text(plans.version)}, {capability[0]}.{capability[1]}", flush=True)
    found = []
    for each in in_every_way(material):
        if backend_of(each, capability=capability, cudnn_version=plans.version) is Backend.CUDNN:
            answer = plans.workspaces(each)
            if answer:
                found.append((each, answer[0], upper_bound_bytes(each)))
    return found


def main() -> None:
    """Print a line for each dtype and layout, and one for all."""
    material = all_forward()
    rows = [row for capability in CAPABILITIES for row in pairs_for(capability, material)]
    kinds = dict.fromkeys((each.dtype, each.channels_last) for each, *_ in rows)
    for dtype, layout in kinds:
        name = f"{dtype}, {'channels last' if layout else 'contiguous'}"
        chosen = [row for row in rows if (row[0].dtype, row[0].channels_last) == (dtype, layout)]
        report(name, [(true, bound) for _, true, bound in chosen])
    report("all", [(true, bound) for _, true, bound in rows])


if __name__ == "__main__":
    main()
