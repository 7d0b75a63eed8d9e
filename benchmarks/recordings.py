"""Compare recorded training steps with their predictions, event by event.

    python -m benchmarks.recordings

Prints for each recording in data/recordings: the number of tensors allocated as predicted (in size,
order and operator, with the same tensors freed between two allocations); the first difference, if
any; and the peak above the step's start. HTA's recording has the category of a tensor instead of
its operator.

Workspaces are left out, because other versions of cuDNN chose them. The peak is predicted three
times: from tensors alone, with their sizes rounded up; with the recorded workspaces; and with the
same on the simulated allocator, which does not split some blocks.
"""

import functools
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import eq
from pathlib import Path
from types import MappingProxyType
from typing import Final

from benchmarks.recorded_programs import BATCH, HtaTracer, KinetoTracer
from benchmarks.validation.recorded_steps import RecordedStep, load_recorded_steps
from benchmarks.validation.step_blocks import played_step
from benchmarks.validation.steps import (
    IsMadeBy,
    StepComparer,
    StepComparison,
    peaks,
    workspaces_by_operator,
)
from bsprobe.records.units import MIB
from bsprobe.simulate.timeline import Kind, Phase, Place, Recording

FOLDER: Final = Path(__file__).parent / "data" / "recordings"
CONVOLUTIONS: Final = frozenset({"convolution", "convolution_backward"})
_OLD_NAMES: Final = MappingProxyType(
    {
        "empty_strided": ("to",),  # the batch is moved
        "convolution": ("cudnn_convolution",),
        "convolution_backward": (
            "cudnn_convolution_backward_input",
            "cudnn_convolution_backward_weight",
        ),
    }
)
"""Operators inside which PyTorch 1.9 allocates, if their names differ from those in a trace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A recording, the recorded program and the known differences."""

    file: str
    trace: Callable[[], Recording]
    is_made_by: IsMadeBy
    known: tuple[tuple[str, str], ...] = ()
    """Operators other than convolutions that took a workspace, with the reason."""


def is_operator(place: Place, _: Kind, name: str) -> bool:
    """True if a recorded operator is the predicted one."""
    own = place.operator
    return name.removeprefix("aten::") in _OLD_NAMES.get(own, (own,))


def is_purpose(place: Place, kind: Kind, category: str) -> bool:
    """True if the purpose of a tensor agrees with its category in PyTorch's memory profiler.

    The profiler calls a tensor of the forward pass an activation if gradients flow through it, else
    a temporary.
    """
    if kind is Kind.GRADIENT:
        return category == "gradient"
    if place.phase is Phase.FORWARD:
        return category in ("activation", "temporary")
    return category == "autograd detail"


_CUBLASLT: Final = (
    "cuBLASLt's, 1 MiB for each product with a bias (`gemm_and_bias` and "
    "`_parseChosenWorkspaceSize` in ATen/cuda/CUDABlas.cpp of PyTorch 2.1); far from the peak"
)


@functools.cache
def _kineto() -> Recording:
    return KinetoTracer().record(BATCH)


_KINETO: Final = functools.partial(Case, trace=_kineto, is_made_by=is_operator)
CASES: Final = (
    _KINETO(file="kineto_r50_nw0_a.json.gz"),
    _KINETO(file="kineto_r50_nw4_a.json.gz"),
    Case(
        file="hta_resnet50_timeline.json.gz",
        trace=lambda: HtaTracer().record(BATCH),
        is_made_by=is_purpose,
        known=(("addmm", _CUBLASLT),),
    ),
)


def compared(
    case: Case, recording: Recording, steps: tuple[RecordedStep, ...]
) -> tuple[StepComparison, ...]:
    """Compare all steps of a recording with the predicted steady step."""
    comparer = StepComparer(recording, case.is_made_by)
    return tuple(comparer.compare(step) for step in steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedFile:
    """The comparison of one recording."""

    is_equal: bool
    """True if every allocation of every step is predicted, in its place."""
    text: str


def compared_file(file: str) -> ComparedFile:
    """Predict and compare one recording."""
    (case,) = (each for each in CASES if each.file == file)
    return report(case, case.trace())


def report(case: Case, recording: Recording) -> ComparedFile:
    """Describe the comparison of one recording."""
    steps = load_recorded_steps(FOLDER / case.file)
    found = compared(case, recording, steps)
    counts = Counter((each.equal, each.recorded, each.predicted) for each in found)
    lines = [
        f"  {repeats} steps: {equal} of {recorded} allocations equal, {predicted} predicted"
        for (equal, recorded, predicted), repeats in counts.items()
    ]
    differences = [each.difference for each in found if each.difference is not None]
    if differences:
        lines.append(f"  {differences[0].describe()}")
    else:
        lines += _beyond_tensors(case, recording, steps[0])
    return ComparedFile(is_equal=not differences, text="\n".join([case.file, *lines]))


def _beyond_tensors(case: Case, recording: Recording, step: RecordedStep) -> Iterator[str]:
    """Yield lines on workspaces and peaks; their places are known if the tensors match."""
    taken = workspaces_by_operator(recording, step)
    yield "  workspaces set aside:"
    yield "    " + ", ".join(f"{count} in {operator}" for operator, count in sorted(taken.items()))
    for operator, reason in case.known:
        yield from textwrap.wrap(
            f"{operator}: {reason}", 80, initial_indent="    ", subsequent_indent="    "
        )
    peak = peaks(recording, step)
    yield f"  peak over the step's start: {_mib(peak.recorded_bytes)}"
    yield f"    predicted without workspaces: {_mib(peak.tensors_bytes)}"
    yield f"    predicted with the recorded workspaces: {_mib(peak.with_workspaces_bytes)}"
    played = played_step(recording, step)
    blocks = [event.size_bytes for event in step.events if event.size_bytes > 0]
    equal = sum(map(eq, blocks, played.blocks))
    yield f"    the same on the simulated allocator: {_mib(played.peak_bytes)}"
    yield f"      where {equal} of {len(blocks)} blocks have the recorded size"


def _mib(size: int) -> str:
    return f"{size / MIB:.3f} MiB"


def main() -> int:
    """Print the comparison of every recording."""
    for case in CASES:
        print(report(case, case.trace()).text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
