"""Records of the memory of a training step, and sums of them by kind, module and operator.

Each view groups the allocations at the peak and ends with the same two remainders (rounding, and
memory outside the allocator), so that every view adds up to the peak.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bsprobe.records.runs import Boundary, DeviceInfo, Environment
from bsprobe.records.trials import Measurement, ModelFacts, Source, TrialSpec
from bsprobe.records.variants import Variant

EXPLANATION_VERSION = 2
"""The schema version of `explanation.json`."""
SNAPSHOT = "snapshot.pickle"
"""The file of the simulated step, for PyTorch's memory viewer."""
RECORDED_SNAPSHOT = "recorded-snapshot.pickle"
"""The file of the step that PyTorch recorded on a GPU, for its memory viewer."""
ROUNDING = "rounding and fragmentation"
"""Bytes reserved by PyTorch's allocator beyond the requested sizes."""
OUTSIDE = "outside the allocator"
"""Bytes of the CUDA context, kernels and libraries."""
NETWORK = "the network itself"
"""The module of operators and parameters of the network that belong to none of its parts."""
LOSS = "the loss"
"""The module of operators of the passes that run after the network's parts."""
NO_MODULE = "batch, optimizer, other"
"""The row of all other allocations outside the network's modules."""
OTHER_MODULES = "other modules"
NEGLIGIBLE_SHARE = 0.01
"""Bytes below this share of the peak are shown together, and count as no difference."""
MODULE_DEPTH = 2
"""The default of the levels of the module tree that a report lists."""
NOT_ATTRIBUTED = "not attributed"
"""Module and kind of a recorded allocation that matches no predicted one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Memory of one kind, operator, module and phase at the peak."""

    module: str
    """Dotted path in the network, `NETWORK` or `LOSS`; empty if it belongs to none of them."""
    kind: str
    operator: str
    phase: str
    """The phase in which it was allocated."""
    size_bytes: int
    """Requested bytes, before the allocator rounds."""
    per_image_bytes: int
    """The slope of the line through the batches of `Explanation.line`, at the moment of the peak;
    zero if `Explanation.scales` is false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The start of a phase in a time line."""

    phase: str
    event: int
    """The number of the first event of the phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One area of a stacked plot: bytes at each sample."""

    name: str
    sizes_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeline:
    """Memory over one step, as the maximum of each of a few hundred intervals."""

    events: int
    """The number of allocations, frees and kernels with a workspace in the step."""
    marks: tuple[Mark, ...]
    at: tuple[int, ...]
    """The event number of each sample."""
    reserved_bytes: tuple[int, ...]
    by_kind: tuple[Series, ...]
    by_module: tuple[Series, ...]
    next_allocated_bytes: tuple[int, ...] = ()
    """Allocated bytes at the same events with one more image; empty if unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePoint:
    """The simulated peak of one batch size on a card without a limit."""

    batch: int
    used_bytes: int
    """Requested bytes at the peak, and bytes outside the allocator."""
    fragmentation_bytes: int
    """Peak reserved bytes minus the requested bytes at the peak."""
    phase: str
    """The phase of the step at the peak."""
    module: str
    operator: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The memory of one variant at one batch size."""

    spec: TrialSpec
    source: Source
    fits: bool
    """False if the batch does not fit; the step is then simulated with unlimited memory."""
    capacity_bytes: int
    """The bytes that a trial may hold."""
    outside_allocator_bytes: int
    phase: str
    """The phase of the step at the peak."""
    module: str
    operator: str
    allocations: tuple[Allocation, ...]
    """Allocations at the peak, one per module, kind, operator and phase; the largest first."""
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    scales: bool
    """True if the bytes per image are known: other batches run the same operators."""
    line: tuple[LinePoint, ...] = ()
    """The batches of the line, the explained one among them; empty in files of earlier versions,
    which count the workspace as fixed."""
    next_peak_bytes: int | None = None
    """The peak with one more image and unlimited memory; None if it cannot be simulated."""
    model: ModelFacts | None = None
    """None in files of earlier versions."""
    timeline: StepTimeline

    @property
    def peak_bytes(self) -> int:
        """Peak bytes of the process: reserved and outside the allocator."""
        return self.peak_reserved_bytes + self.outside_allocator_bytes

    @property
    def rounding_bytes(self) -> int:
        """Peak reserved bytes minus the requested bytes at the peak."""
        return self.peak_reserved_bytes - sum(each.size_bytes for each in self.allocations)

    @property
    def per_image_bytes(self) -> int:
        """Requested bytes that one more image adds to the peak."""
        return sum(each.per_image_bytes for each in self.allocations)

    @property
    def used_bytes(self) -> int:
        """Requested bytes at the peak, and bytes outside the allocator."""
        return self.peak_bytes - self.rounding_bytes

    @property
    def fixed_bytes(self) -> int:
        """The part of `used_bytes` that does not grow with the batch, in bytes.

        Rounding and fragmentation are not part of it: they follow no line.
        """
        return self.used_bytes - self.spec.batch_size * self.per_image_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTrial:
    """A trial that ran on a GPU while PyTorch recorded its allocator."""

    spec: TrialSpec
    measurement: Measurement
    phases: tuple[str, ...]
    """The reported phases, in order; the snapshot has a mark for each."""
    device_index: int
    capacity_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSide:
    """Measurements of the machine's GPU, shown beside the prediction for it."""

    device: DeviceInfo
    boundary: Boundary | None = None
    """Found by trials; None if the batch was given."""
    explanation: Explanation | None = None
    """Of the recorded trial; None if the trial did not run."""
    failure: str = ""
    """The reason if the trial did not run, else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemedyResult:
    """The effect of one change that saves memory, found by the search of `bsprobe run`."""

    name: str
    command: str
    """Options to add to the command line, or environment variables to put before it."""
    cost: str
    """The cost in a few words, or `none`."""
    variant: Variant
    accumulation_steps: int = 1
    """Micro-batches per update; above one, `largest` is the micro-batch that runs accumulated."""
    boundary: Boundary | None = None
    """None if the change is impossible."""
    peak_bytes: int | None = None
    """At the explained batch, with unlimited memory if the batch does not fit."""
    per_image_bytes: int | None = None
    impossible: str = ""
    """The reason if the change is impossible with this network, else empty."""

    @property
    def largest(self) -> int:
        """The largest batch with the change; zero if none runs."""
        return 0 if self.boundary is None else self.boundary.largest or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationReport:
    """The result of `bsprobe explain` for one variant, and the content of its JSON file.

    Everything except `measured` is predicted.
    """

    schema_version: int
    environment: Environment
    device: DeviceInfo
    variant: Variant
    boundary: Boundary
    """Of the variant without remedies."""
    explanation: Explanation
    remedies: tuple[RemedyResult, ...]
    """Best first."""
    are_remedies_known: bool = True
    """False if the remedies are not predicted yet, or were interrupted."""
    measured: MeasuredSide | None = None
    """None if the machine has no GPU or a card was given."""
    depth: int = MODULE_DEPTH
    """Levels of the module tree that the report lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A group of allocations, or one of the two remainders."""

    name: str
    size_bytes: int
    per_image_bytes: int | None
    """Of the prediction, if measurement and prediction are compared; None for rounding and
    fragmentation, which follow no line."""
    depth: int = 0
    """Depth in the tree; the children of a row follow it, one level deeper."""
    predicted_bytes: int = 0
    """The predicted size of a measured row."""


def by_kind(explanation: Explanation, beside: Explanation | None = None) -> list[Row]:
    """Sum the peak by kind of memory.

    Args:
        explanation: The explanation to sum.
        beside: The prediction for a measured explanation; each row then has both sizes.

    Returns:
        The rows, the largest first, then the two remainders; they add up to the peak.
    """
    return _view(explanation, beside, lambda each: each.kind)


def by_operator(explanation: Explanation, beside: Explanation | None = None) -> list[Row]:
    """Sum the peak by operator, as `by_kind`."""
    return _view(explanation, beside, lambda each: each.operator)


def by_module(explanation: Explanation, depth: int, beside: Explanation | None = None) -> list[Row]:
    """Sum the peak by module.

    Args:
        explanation: The explanation to sum.
        depth: The number of levels in the tree.
        beside: The prediction for a measured explanation; each row then has both sizes.

    Returns:
        The rows of the tree, each followed by its children, then the two remainders. The rows at
        depth 0 add up to the peak.
    """
    return [
        *_branches(explanation.allocations, _allocations(beside), 1, depth),
        *_rests(explanation, beside),
    ]


def module_at(module: str, depth: int) -> str:
    """Shorten a module's path to a depth: `layer3.4` for `layer3.4.conv1` at 2."""
    return ".".join(module.split(".")[:depth]) or NO_MODULE


def _view(
    explanation: Explanation, beside: Explanation | None, key: Callable[[Allocation], str]
) -> list[Row]:
    return [
        *_grouped(explanation.allocations, _allocations(beside), key),
        *_rests(explanation, beside),
    ]


def _allocations(explanation: Explanation | None) -> tuple[Allocation, ...]:
    return () if explanation is None else explanation.allocations


def _branches(
    allocations: Sequence[Allocation], beside: Sequence[Allocation], level: int, depth: int
) -> list[Row]:
    rows = []
    for row in _grouped(allocations, beside, lambda each: module_at(each.module, level)):
        rows.append(replace(row, depth=level - 1))
        inside, beside_it = (
            [each for each in every if module_at(each.module, level) == row.name]
            for every in (allocations, beside)
        )
        if level < depth and any(each.module.count(".") >= level for each in (*inside, *beside_it)):
            rows += _branches(inside, beside_it, level + 1, depth)
    return rows


def _grouped(
    allocations: Sequence[Allocation],
    beside: Sequence[Allocation],
    key: Callable[[Allocation], str],
) -> list[Row]:
    sizes: Counter[str] = Counter()
    slopes: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    for each in allocations:
        sizes[key(each)] += each.size_bytes
        slopes[key(each)] += each.per_image_bytes
    for each in beside:
        predicted[key(each)] += each.size_bytes
        slopes[key(each)] += each.per_image_bytes
    rows = [
        Row(
            name=name,
            size_bytes=sizes[name],
            per_image_bytes=slopes[name],
            predicted_bytes=predicted[name],
        )
        for name in dict.fromkeys((*sizes, *predicted))
    ]
    return sorted(rows, key=lambda row: (-row.size_bytes, -row.predicted_bytes))


def _rests(explanation: Explanation, beside: Explanation | None) -> list[Row]:
    return [
        Row(
            name=ROUNDING,
            size_bytes=explanation.rounding_bytes,
            per_image_bytes=None,
            predicted_bytes=beside.rounding_bytes if beside else 0,
        ),
        Row(
            name=OUTSIDE,
            size_bytes=explanation.outside_allocator_bytes,
            per_image_bytes=0,
            predicted_bytes=beside.outside_allocator_bytes if beside else 0,
        ),
    ]
