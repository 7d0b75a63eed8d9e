"""Records of a training step's memory, and the ways to add them up.

Everything that is held at the peak is a `Allocation`; each view (by kind, by module, by operator)
groups the same allocations and ends with the same two rests, so that all add up to the peak.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bsprobe.records.runs import Boundary, DeviceInfo, Environment
from bsprobe.records.trials import Measurement, ModelFacts, Source, TrialSpec
from bsprobe.records.variants import Variant

EXPLANATION_VERSION = 2
"""The version of `explanation.json`."""
SNAPSHOT = "snapshot.pickle"
"""The simulated step, for PyTorch's own viewer."""
RECORDED_SNAPSHOT = "recorded-snapshot.pickle"
"""The file of what PyTorch recorded on a GPU, for its own viewer."""
ROUNDING = "rounding and fragmentation"
"""Reserved by PyTorch's allocator, but asked for by nobody."""
OUTSIDE = "outside the allocator"
"""The CUDA context, kernels and libraries."""
NO_MODULE = "batch, loss, optimizer"
"""The name for what belongs to no module of the network."""
OTHER_MODULES = "other modules"
NOT_ATTRIBUTED = "not attributed"
"""Module and kind of what a GPU was asked for where nothing like it was predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The memory of one kind that one operator of one module holds at the peak."""

    module: str
    """Dotted path in the network; empty for what belongs to no module."""
    kind: str
    operator: str
    phase: str
    """The phase in which it was allocated."""
    size_bytes: int
    """As asked for, before the allocator rounds."""
    per_image_bytes: int
    """The part that each image adds; zero throughout where `Explanation.scales` is false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The beginning of a phase on the time line."""

    phase: str
    event: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One area of a stacked picture: bytes at each sample."""

    name: str
    sizes_bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeline:
    """Memory over one step, at the fullest moment of each of some hundred stretches."""

    events: int
    """Allocations, frees and kernels with memory of their own in the step."""
    marks: tuple[Mark, ...]
    at: tuple[int, ...]
    """The event of each sample."""
    reserved_bytes: tuple[int, ...]
    by_kind: tuple[Series, ...]
    by_module: tuple[Series, ...]
    next_allocated_bytes: tuple[int, ...] = ()
    """Bytes allocated at the same events with one image more; empty where not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The memory of one variant at one batch size."""

    spec: TrialSpec
    source: Source
    fits: bool
    """False: it does not fit, and was played on a card without end."""
    capacity_bytes: int
    """Bytes that a trial may hold."""
    outside_allocator_bytes: int
    phase: str
    """The phase of the step at the peak."""
    module: str
    operator: str
    allocations: tuple[Allocation, ...]
    """Allocations at the peak, by module, kind, operator and phase; the largest first."""
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    scales: bool
    """True where the parts per image are known: the operators are the same at other batches."""
    next_peak_bytes: int | None = None
    """Bytes with one image more, on a card without end; None where it cannot be played."""
    model: ModelFacts | None = None
    """Facts of the network; None in files of earlier versions."""
    timeline: StepTimeline

    @property
    def peak_bytes(self) -> int:
        """The most the step holds of the card: reserved, and outside the allocator."""
        return self.peak_reserved_bytes + self.outside_allocator_bytes

    @property
    def rounding_bytes(self) -> int:
        """Reserved at the most, less what was asked for at the peak."""
        return self.peak_reserved_bytes - sum(each.size_bytes for each in self.allocations)

    @property
    def per_image_bytes(self) -> int:
        """Bytes that one image more adds to what is asked for at the peak."""
        return sum(each.per_image_bytes for each in self.allocations)

    @property
    def fixed_bytes(self) -> int:
        """The peak without the part that grows: rounding, fragmentation and outside included."""
        return self.peak_bytes - self.spec.batch_size * self.per_image_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedTrial:
    """A trial that ran on a GPU while PyTorch recorded what its allocator did."""

    spec: TrialSpec
    measurement: Measurement
    phases: tuple[str, ...]
    """Phases that it reported, in order; the snapshot has a mark for each."""
    device_index: int
    capacity_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSide:
    """The measurements of the GPU in the machine, beside the prediction for it."""

    device: DeviceInfo
    boundary: Boundary | None = None
    """Found by trials; None where the batch was named."""
    explanation: Explanation | None = None
    """Of a recorded trial; None where it did not run."""
    failure: str = ""
    """The reason why it did not run; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemedyResult:
    """The effect of one change, found by the search that `bsprobe run` makes."""

    name: str
    command: str
    """Text to add to a command line, or to put before it."""
    cost: str
    """Its price in a few words; `none` where there is none."""
    variant: Variant
    accumulation_steps: int = 1
    """More than one: the largest batch is the micro-batch that still runs accumulated."""
    boundary: Boundary | None = None
    """None where the change is impossible."""
    peak_bytes: int | None = None
    """At the batch that is explained, on a card without end where it would not fit."""
    per_image_bytes: int | None = None
    impossible: str = ""
    """The reason why it cannot be done with this network; else empty."""

    @property
    def largest(self) -> int:
        """The largest batch it gives; zero where none runs."""
        return 0 if self.boundary is None else self.boundary.largest or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationReport:
    """All that `bsprobe explain` finds out about one variant: the content of its JSON file.

    All of it is predicted but `measured`.
    """

    schema_version: int
    environment: Environment
    device: DeviceInfo
    variant: Variant
    boundary: Boundary
    """Of the variant as it is."""
    explanation: Explanation
    remedies: tuple[RemedyResult, ...]
    """Best first."""
    measured: MeasuredSide | None = None
    """None where there is no GPU, or a card was named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A group of allocations, or one of the two rests."""

    name: str
    size_bytes: int
    per_image_bytes: int
    """Of the prediction, where one stands beside what was measured."""
    depth: int = 0
    """Its depth in the tree; the parts of a row follow it, one deeper."""
    predicted_bytes: int = 0
    """Of a measured row: what was predicted for it."""


def by_kind(explanation: Explanation, beside: Explanation | None = None) -> list[Row]:
    """Bytes of each kind of memory, largest first, and the two rests: together the peak.

    Args:
        explanation: What is added up.
        beside: The prediction for it, where it is measured; each row then has both.
    """
    return _view(explanation, beside, lambda each: each.kind)


def by_operator(explanation: Explanation, beside: Explanation | None = None) -> list[Row]:
    """Bytes of each operator's results and kernels, and the two rests, as `by_kind`."""
    return _view(explanation, beside, lambda each: each.operator)


def by_module(explanation: Explanation, depth: int, beside: Explanation | None = None) -> list[Row]:
    """The tree of modules down to a depth, as `by_kind`; its top level adds up to the peak."""
    return [
        *_branches(explanation.allocations, _allocations(beside), 1, depth),
        *_rests(explanation, beside),
    ]


def module_at(module: str, depth: int) -> str:
    """The part of a module's path down to a depth: `layer3.4` of `layer3.4.conv1` at 2."""
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
    def row(name: str, size_bytes: int, predicted_bytes: int) -> Row:
        return Row(
            name=name, size_bytes=size_bytes, per_image_bytes=0, predicted_bytes=predicted_bytes
        )

    return [
        row(ROUNDING, explanation.rounding_bytes, beside.rounding_bytes if beside else 0),
        row(
            OUTSIDE,
            explanation.outside_allocator_bytes,
            beside.outside_allocator_bytes if beside else 0,
        ),
    ]
