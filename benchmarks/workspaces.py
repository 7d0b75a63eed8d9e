"""Query cuDNN's workspaces for described cards.

    python benchmarks/workspaces.py bound         compare with the bound used without cuDNN
    python benchmarks/workspaces.py sensitivity   find the properties of a card that matter
    python benchmarks/workspaces.py speed         measure the time of a query

Run it from a checkout. `bound` takes a minute. `sensitivity` takes a few: it requests the first
plan of some convolutions with each property of the card changed in turn and counts the workspaces
that change. Its results are the reason that one description for each compute capability serves all
its cards. `speed` queries every convolution of the default network at several batches, in both
dtypes and all three directions; then again from memory, and again from the file.
`--capability 8.6 ...` selects compute capabilities.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn, zeros
from torch._subclasses.fake_tensor import FakeTensorMode

from bsprobe.records.units import MIB, Resolution
from bsprobe.records.variants import Variant
from bsprobe.simulate.cudnn.convolutions import (
    Backend,
    Convolution,
    Direction,
    backend_of,
    upper_bound_bytes,
    version_text,
)
from bsprobe.simulate.cudnn.plans import CudnnPlans, described_card
from bsprobe.simulate.cudnn.workspace import Workspaces
from bsprobe.training.models.factory import build_model

Capability = tuple[int, int]
Card = dict[str, Any]

CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
"""Those that a current cuDNN supports."""
DEFAULT = "deeplabv2-resnet101"
NETWORKS = (
    DEFAULT,
    "torchvision:fcn_resnet50",
    "torchvision:deeplabv3_resnet101",
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
)
RESOLUTIONS = (Resolution(height=512, width=1024), Resolution(height=321, width=321))
BATCHES, TIMED_BATCHES = (2, 6), (1, 2, 3, 4, 6, 8, 12, 16)
DTYPES = ("float32", "float16")
LEAST_BYTES = MIB
"""Ratios to smaller sizes are meaningless."""
EVERY = 5
"""Only every fifth of all convolutions, dtypes, layouts and directions is tried with changes."""
MUCH_BYTES = 16 * MIB
GOAL_MILLISECONDS = 5


def network_convolutions(network: str, resolution: Resolution, batch: int) -> list[Convolution]:
    """Return the distinct convolutions of one network's forward pass: fp32, contiguous.

    Args:
        network: The name of the network.
        resolution: The size of the images.
        batch: The batch size.
    """
    found: dict[Convolution, None] = {}

    def note(module: nn.Module, args: tuple[Any, ...], _output: object) -> None:
        assert isinstance(module, nn.Conv2d)  # noqa: S101 - hooked only on these
        assert isinstance(module.padding, tuple)  # noqa: S101 - no network here uses "same"
        convolution = Convolution(
            direction=Direction.FORWARD,
            dtype="float32",
            channels_last=False,
            input_size=tuple(args[0].shape),
            weight_size=tuple(module.weight.shape),
            padding=module.padding,
            stride=module.stride,
            dilation=module.dilation,
            groups=module.groups,
        )
        found[convolution] = None

    with FakeTensorMode():
        model = build_model(Variant(model=network, resolution=resolution))
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        model(zeros(batch, 3, resolution.height, resolution.width))
    return list(found)


def in_every_way(
    convolutions: Iterable[Convolution], layouts: Sequence[bool] = (False, True)
) -> Iterator[Convolution]:
    """Yield each convolution in both dtypes, the given layouts and all three directions."""
    for convolution, dtype, layout, way in product(convolutions, DTYPES, layouts, Direction):
        yield replace(convolution, dtype=dtype, channels_last=layout, direction=way)


@cache
def material() -> list[Convolution]:
    """Return the distinct convolutions of all networks, resolutions and batches, in every way."""
    cases = product(NETWORKS, RESOLUTIONS, BATCHES)
    forward = dict.fromkeys(each for case in cases for each in network_convolutions(*case))
    return list(in_every_way(forward))


def run_by_cudnn(
    convolutions: Iterable[Convolution], capability: Capability, version: int
) -> list[Convolution]:
    """Return the convolutions that PyTorch runs with cuDNN.

    Args:
        convolutions: The convolutions to filter.
        capability: The compute capability of the card.
        version: The version of cuDNN, as a number such as 91900.
    """
    return [
        each
        for each in convolutions
        if backend_of(each, capability=capability, cudnn_version=version) is Backend.CUDNN
    ]


def plans_of(card: Card) -> CudnnPlans:
    """Return cuDNN's plans for a card."""
    return CudnnPlans(card, allow_tf32=True, deterministic=False)


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


def bound(capabilities: Sequence[Capability]) -> None:
    """Print a line for each dtype and layout, and one for all."""
    found: dict[str, list[tuple[int, int]]] = {}
    for capability in capabilities:
        plans = plans_of(described_card(capability)[1])
        print(f"cuDNN {version_text(plans.version)}, {capability[0]}.{capability[1]}", flush=True)
        for each in run_by_cudnn(material(), capability, plans.version):
            for true in plans.workspaces(each)[:1]:
                name = f"{each.dtype}, {'channels last' if each.channels_last else 'contiguous'}"
                found.setdefault(name, []).append((true, upper_bound_bytes(each)))
    for name, pairs in found.items():
        report(name, pairs)
    report("all", [pair for pairs in found.values() for pair in pairs])


def scaled(factor: float, *keys: str) -> Callable[[Card], Card]:
    """Return a change that multiplies some properties of a card."""
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
    """Return bytes of the first plan of each convolution, -1 if it has none."""
    plans = plans_of(card)
    return [next(iter(plans.workspaces(each)), -1) for each in convolutions]


def compare(name: str, base: list[int], other: list[int]) -> None:
    """Print how many workspaces differ, and by how much.

    Args:
        name: The name of the change.
        base: First workspaces of the original card, in bytes.
        other: Those of the changed card.
    """
    pairs = list(zip(base, other, strict=True))
    differing = [abs(after - before) for before, after in pairs if after != before]
    much = sum(difference > MUCH_BYTES for difference in differing)
    print(
        f"  {name:<30} {len(differing):>5} of {len(pairs)} differ, {much} by more than "
        f"{MUCH_BYTES // MIB} MiB, at most {max(differing, default=0) / MIB:.0f} MiB"
    )


def sensitivity(capabilities: Sequence[Capability]) -> None:
    """Print a block for each compute capability."""
    bases: dict[Capability, list[int]] = {}
    for capability in capabilities:
        card = described_card(capability)[1]
        version = plans_of(card).version
        asked = run_by_cudnn(material()[::EVERY], capability, version)
        base = first_workspaces(card, asked)
        print(
            f"{capability[0]}.{capability[1]} ({card['deviceName']}), cuDNN {version_text(version)}"
        )
        for name, change in CHANGES.items():
            compare(name, base, first_workspaces(change(card), asked))
        for other, known in bases.items():
            compare(f"against {other[0]}.{other[1]}", known, base)
        bases[capability] = base


def ask_all(workspaces: Workspaces, asked: Sequence[Convolution]) -> float:
    """Return the milliseconds of one query, on average."""
    start = time.perf_counter()
    for each in asked:
        workspaces.candidates(each)
    return (time.perf_counter() - start) * 1e3 / len(asked)


def speed(capabilities: Sequence[Capability]) -> None:
    """Print a line for each compute capability and the verdict."""
    forward = (network_convolutions(DEFAULT, RESOLUTIONS[0], batch) for batch in TIMED_BATCHES)
    asked = list(in_every_way((each for found in forward for each in found), layouts=(False,)))
    colds = []
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for capability in capabilities:
            with Workspaces(capability, cache=Path(folder)) as workspaces:
                if workspaces.cudnn_version is None:
                    sys.exit(workspaces.notes[0])
                cold = ask_all(workspaces, asked)
                warm = ask_all(workspaces, asked)
            colds.append(cold)
            began = time.perf_counter()
            again = Workspaces(capability, cache=Path(folder))
            opening = (time.perf_counter() - began) * 1e3
            print(
                f"{capability[0]}.{capability[1]:<3} {len(asked)} queries: cold {cold:.2f} ms "
                f"each, again {warm:.3f} ms; from the file {ask_all(again, asked):.3f} ms, "
                f"opened in {opening:.0f} ms"
            )
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(f"all: {time.perf_counter() - start:.1f} s; the files take {size / MIB:.1f} MiB")
    verdict = "reached" if max(colds) <= GOAL_MILLISECONDS else "NOT reached"
    print(f"slowest {max(colds):.2f} ms a query; goal {GOAL_MILLISECONDS} ms: {verdict}")


def main() -> None:
    """Run the chosen part."""
    questions = {"bound": bound, "sensitivity": sensitivity, "speed": speed}
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("question", choices=questions)
    parser.add_argument("--capability", nargs="+", help="such as 8.6  [default: all]")
    given = parser.parse_args()
    chosen = [tuple(map(int, text.split("."))) for text in given.capability or ()]
    questions[given.question]([(major, minor) for major, minor in chosen] or CAPABILITIES)


if __name__ == "__main__":
    main()
