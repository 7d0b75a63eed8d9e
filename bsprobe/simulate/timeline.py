"""The allocations, frees and kernel-internal memory of a training step, for any batch size.

A `Recording` is a traced program at one batch size. Two recordings that run the same operators
make a `Timeline`, in which every size is a linear function of the batch size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.sums import Reduction


class Phase(StrEnum):
    """The part of a step in which something is allocated."""

    SETUP = "setup"
    """Before the first step; moves the network and the batch to the device."""
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    VALIDATION = "validation"


class Kind(StrEnum):
    """The purpose of a piece of memory."""

    PARAMETER = "parameters"
    BUFFER = "buffers"
    BATCH = "batch"
    """Images and labels."""
    GRADIENT = "gradients"
    BUCKET = "gradient buckets"
    """Flat copies of gradients that several processes average (DistributedDataParallel)."""
    OPTIMIZER_STATE = "optimizer state"
    SAVED_ACTIVATION = "saved activations"
    """Tensors allocated in the forward pass that are alive at its end."""
    OUTPUT = "outputs"
    """The network's outputs and the loss, if they live until the next step has replaced them."""
    WEIGHT_COPY = "weight copies"
    """Half-precision copies of parameters that autocast makes and keeps until the backward pass."""
    TEMPORARY = "temporaries"
    WORKSPACE = "workspace"
    """Temporary memory inside a kernel, such as cuDNN's workspace."""


class Action(IntEnum):
    """The kind of an event; its subject is an index into a tuple of the timeline."""

    ALLOCATE = 0
    """Allocate one of `storages`."""
    FREE = 1
    """Free one of `storages`."""
    SCRATCH = 2
    """Allocate all sizes of one of `scratches` in order, then free them."""
    HAND_ON = 3
    """Apply one of `handovers`, at the end of a step that is played again."""


class Section(StrEnum):
    """A part of a recording."""

    SETUP = "setup"
    FIRST_STEP = "first step"
    SETTLING_STEPS = "settling steps"
    """The steps between the first step and the one that repeats; usually none."""
    LATER_STEP = "later step"
    """The step that repeats: the second one, unless memory is kept for longer than a step."""
    VALIDATION = "validation"


Event = tuple[Action, int]
Handover = tuple[int, int]
"""Two storages of the same kind and size: the first replaces the second, which was freed.

A step can keep a tensor that replaces one kept by the step before. It then frees other storages
than that step did. Its handovers rename the storages so that it can be played again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """An integer that is a linear function of the batch size."""

    fixed: int
    per_image: int

    def at(self, batch: int) -> int:
        """The value at a batch size."""
        return self.fixed + self.per_image * batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place in the program that allocates memory."""

    phase: Phase
    module: str
    """Dotted path in the network, or one of the names of `records.explanations` for the network
    itself and for its loss; empty elsewhere."""
    operator: str
    """The dispatcher's name without its namespace: `convolution`, `native_batch_norm`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A tensor's memory in a timeline."""

    place: Place
    kind: Kind
    size: Affine
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """Memory that a kernel allocates and frees before it returns."""

    place: Place
    sizes: tuple[Affine, ...]
    """Bytes of each allocation."""
    convolution: int | None = None
    """Index into the timeline's `convolutions`, for cuDNN's workspace; None for other kernels."""
    reduction: "BatchedReduction | None" = None
    """The sum that needs a buffer, whose size depends on the card."""
    uses_cublas: bool = False
    """True if the kernel uses cuBLAS's workspace."""
    elements: Affine | None = None
    """Number of elements, if the kernel counts them in 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedConvolution:
    """A convolution at any batch size."""

    like: Convolution
    """The convolution at the traced batch size; `at` replaces its `input_size`."""
    input_size: tuple[Affine, ...]

    def at(self, batch: int) -> Convolution:
        """The convolution at a batch size."""
        return replace(self.like, input_size=tuple(size.at(batch) for size in self.input_size))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedReduction:
    """A sum at any batch size."""

    like: Reduction
    """At the batch size that was traced; what the next two say is replaced."""
    outputs: Affine
    inputs: Affine

    def at(self, batch: int) -> Reduction:
        """The sum at a batch size."""
        return replace(self.like, outputs=self.outputs.at(batch), inputs=self.inputs.at(batch))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A program's memory at every batch size that runs the same operators."""

    storages: tuple[Storage, ...]
    scratches: tuple[Scratch, ...]
    convolutions: tuple[BatchedConvolution, ...]
    """Distinct convolutions; one that runs several times is listed once."""
    sections: dict[Section, tuple[Event, ...]]
    handovers: tuple[Handover, ...] = ()
    settling: tuple[int, ...] = ()
    """Number of events of each step in the section SETTLING_STEPS."""
    traced_at: tuple[int, ...]
    """The traced batch sizes: two, or one if the timeline holds for that batch size only."""

    @property
    def settling_steps(self) -> int:
        """Number of steps in the section SETTLING_STEPS."""
        return len(self.settling)

    def steps(self, count: int) -> tuple[Section, ...]:
        """The sections of `count` training steps, or of more if the program settles later."""
        settling = (Section.SETTLING_STEPS,) if self.settling_steps else ()
        return (Section.FIRST_STEP, *settling, *[Section.LATER_STEP] * self.repeats(count))

    def repeats(self, count: int) -> int:
        """Number of times that LATER_STEP is played in `count` training steps; at least 1."""
        return max(1, count - 1 - self.settling_steps)


RecordedStorage = tuple[Place, Kind, int]
"""`Storage` at one batch size: place, kind, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedScratch:
    """`Scratch` at one batch size."""

    place: Place
    sizes: tuple[int, ...]
    convolution: Convolution | None = None
    reduction: Reduction | None = None
    uses_cublas: bool = False
    elements: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A program's memory at one batch size."""

    batch: int
    storages: tuple[RecordedStorage, ...]
    scratches: tuple[RecordedScratch, ...]
    sections: dict[Section, tuple[Event, ...]]
    handovers: tuple[Handover, ...] = ()
    settling: tuple[int, ...] = ()
    """As in `Timeline`."""


def largest_bytes(recording: Recording) -> tuple[int, int]:
    """Peak bytes in the forward and backward passes, and peak bytes overall.

    Counts tensors and the sizes of scratches, without the workspaces of cuDNN and cuBLAS. The two
    peaks differ if the optimizer's update takes the most, as it can with a small batch.
    """
    in_passes = most = now = 0
    for events in recording.sections.values():
        for action, subject in events:
            if action is Action.SCRATCH:
                place, level = recording.scratches[subject].place, now
                level += sum(recording.scratches[subject].sizes)
            elif action is not Action.HAND_ON:
                place, _, size = recording.storages[subject]
                now += size if action is Action.ALLOCATE else -size
                level = now
            else:
                continue
            most = max(most, level)
            if place.phase in (Phase.FORWARD, Phase.BACKWARD):
                in_passes = max(in_passes, level)
    return in_passes, most


class MismatchError(Exception):
    """Two recordings differ in their operators, or in sizes that are not linear in the batch."""


def at_one_batch(recording: Recording) -> Timeline:
    """Make a timeline that holds for the recorded batch size only."""
    return _timeline(recording, recording, (recording.batch,))


def matched(one: Recording, other: Recording) -> Timeline:
    """Merge recordings at two batch sizes into one timeline, event by event.

    Raises:
        MismatchError: They differ in more than sizes, a size shrinks with the batch, or a size
            grows faster than the batch.
    """
    if one.sections != other.sections:
        section = next(key for key in one.sections if one.sections[key] != other.sections.get(key))
        raise MismatchError(f"the events of the {section} differ")
    if one.handovers != other.handovers:
        raise MismatchError("the handovers differ")
    return _timeline(one, other, (one.batch, other.batch))


def _timeline(one: Recording, other: Recording, traced_at: tuple[int, ...]) -> Timeline:
    convolutions: dict[tuple[Convolution, Convolution], int] = {}
    batched: list[BatchedConvolution] = []

    def line(first: int, second: int, place: Place) -> Affine:
        return _line(first, second, traced_at, place)

    def storage(first: RecordedStorage, second: RecordedStorage) -> Storage:
        place, kind, size = first
        if second[:2] != (place, kind):
            raise MismatchError(f"{place} and {second[0]} do not match")
        return Storage(place=place, kind=kind, size=line(size, second[2], place))

    def convolution(first: RecordedScratch, second: RecordedScratch) -> int | None:
        if first.convolution is None or second.convolution is None:
            if first.convolution is not second.convolution:
                raise MismatchError(f"{first.place}: only one of the two is a convolution")
            return None
        pair = first.convolution, second.convolution
        if pair not in convolutions:
            convolutions[pair] = len(batched)
            batched.append(_batched(*pair, traced_at, first.place))
        return convolutions[pair]

    def scratch(first: RecordedScratch, second: RecordedScratch) -> Scratch:
        place = first.place
        if second.place != place or len(second.sizes) != len(first.sizes):
            raise MismatchError(f"{place} and {second.place} do not match")
        sizes = zip(first.sizes, second.sizes, strict=True)
        return Scratch(
            place=place,
            sizes=tuple(line(a, b, place) for a, b in sizes),
            convolution=convolution(first, second),
            reduction=_reduction(first, second, traced_at),
            uses_cublas=first.uses_cublas,
            elements=_elements(first, second, traced_at),
        )

    return Timeline(
        storages=tuple(map(storage, one.storages, other.storages)),
        scratches=tuple(map(scratch, one.scratches, other.scratches)),
        convolutions=tuple(batched),
        sections=one.sections,
        handovers=one.handovers,
        settling=one.settling,
        traced_at=traced_at,
    )


def _line(first: int, second: int, traced_at: Sequence[int], place: Place) -> Affine:
    if len(traced_at) == 1:
        return Affine(fixed=first, per_image=0)
    step = traced_at[1] - traced_at[0]
    slope, rest = divmod(second - first, step)
    fixed = first - slope * traced_at[0]
    if rest or slope < 0 or fixed < 0:  # a negative intercept: the size grows faster than the batch
        raise MismatchError(f"{place}: {first} and {second} do not grow linearly with the batch")
    return Affine(fixed=fixed, per_image=slope)


def _batched(
    first: Convolution, second: Convolution, traced_at: Sequence[int], place: Place
) -> BatchedConvolution:
    if replace(second, input_size=first.input_size) != first:
        raise MismatchError(f"{place}: {first} and {second} differ in more than the batch")
    sizes = zip(first.input_size, second.input_size, strict=True)
    return BatchedConvolution(
        like=first, input_size=tuple(_line(a, b, traced_at, place) for a, b in sizes)
    )


def _reduction(
    first: RecordedScratch, second: RecordedScratch, traced_at: Sequence[int]
) -> BatchedReduction | None:
    one, other = first.reduction, second.reduction
    if one is None or other is None:
        return None
    return BatchedReduction(
        like=one,
        outputs=_line(one.outputs, other.outputs, traced_at, first.place),
        inputs=_line(one.inputs, other.inputs, traced_at, first.place),
    )


def _elements(
    first: RecordedScratch, second: RecordedScratch, traced_at: Sequence[int]
) -> Affine | None:
    if first.elements is None or second.elements is None:
        return None
    return _line(first.elements, second.elements, traced_at, first.place)
