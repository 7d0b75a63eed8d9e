"""A training step's allocations in order: births, deaths and kernels' own memory, for any batch.

A `Recording` is one traced program at one batch size. Two of them that run the same operators make
a `Timeline`, in which every size is a line over the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.sums import Reduction


class Phase(StrEnum):
    """The part of a step in which something is allocated."""

    SETUP = "setup"
    """Before the first step: the network and the batch are moved to the device."""
    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"
    EVALUATION = "evaluation"


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
    """Made in the forward pass and still there when it ends."""
    OUTPUT = "outputs"
    """Of the network, and the loss, where they live until the next step has made its own."""
    WEIGHT_COPY = "weight copies"
    """Half-precision copies of parameters that autocast makes and keeps until the backward pass."""
    TEMPORARY = "temporaries"
    WORKSPACE = "workspace"
    """Taken inside a kernel, such as cuDNN's."""


class Action(IntEnum):
    """The kind of an event; its subject is an index into a tuple of the timeline."""

    ALLOCATE = 0
    """Of `storages`."""
    FREE = 1
    """Of `storages`."""
    SCRATCH = 2
    """Of `scratches`: all taken in order, then all given back."""
    HAND_ON = 3
    """Of `handovers`: at the end of a step, before it is played again."""


class Section(StrEnum):
    """The stretches of a recording."""

    SETUP = "setup"
    FIRST_STEP = "first step"
    SETTLING_STEPS = "settling steps"
    """All between the first step and the one that repeats; mostly there is none."""
    LATER_STEP = "later step"
    """The step that repeats: the second one, unless something is kept for longer than a step."""
    EVALUATION = "evaluation"


Event = tuple[Action, int]
Handover = tuple[int, int]
"""Two storages of one kind and size: the first takes the place of the second, which was freed.

A step that keeps something in place of what an earlier step has kept frees other storages than the
step before it; with its handovers it can be played again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """A whole number that grows along a line with the batch size."""

    fixed: int
    per_image: int

    def at(self, batch: int) -> int:
        """The value at a batch size."""
        return self.fixed + self.per_image * batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place in the program where something is allocated."""

    phase: Phase
    module: str
    """Dotted path in the network; empty for what belongs to no module."""
    operator: str
    """As the dispatcher names it, without its namespace: `convolution`, `native_batch_norm`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A tensor's memory, in a timeline or (its size a plain number) in a recording."""

    place: Place
    kind: Kind
    size: Affine


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """Memory that a kernel takes and gives back before it returns."""

    place: Place
    sizes: tuple[Affine, ...]
    convolution: int | None = None
    """The convolution whose further memory cuDNN tells: an index into the timeline's."""
    reduction: "BatchedReduction | None" = None
    """The sum whose further memory depends on the card."""
    uses_cublas: bool = False
    """True where cuBLAS has a workspace, which lives on."""
    elements: Affine | None = None
    """The elements of a kernel that counts them in 32 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedConvolution:
    """A convolution at any batch size."""

    like: Convolution
    """At the batch size that was traced; its `input_size` is replaced."""
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
    """A program's memory at every batch size for which its operators stay the same."""

    storages: tuple[Storage, ...]
    scratches: tuple[Scratch, ...]
    convolutions: tuple[BatchedConvolution, ...]
    """Each once, however often it runs."""
    sections: dict[Section, tuple[Event, ...]]
    handovers: tuple[Handover, ...] = ()
    settling_steps: int = 0
    """The number of steps in the section of that name."""
    traced_at: tuple[int, ...]
    """The batch sizes it was traced at: two, or one where it does not hold for any other."""

    def steps(self, count: int) -> tuple[Section, ...]:
        """The sections of a training of so many steps; of one that settles later, until then."""
        settling = (Section.SETTLING_STEPS,) if self.settling_steps else ()
        return (Section.FIRST_STEP, *settling, *[Section.LATER_STEP] * self.repeats(count))

    def repeats(self, count: int) -> int:
        """The times that the step that repeats is played in a training of so many steps."""
        return max(1, count - 1 - self.settling_steps)


RecordedStorage = tuple[Place, Kind, int]
"""`Storage` at one batch size: its place, its kind, its bytes."""


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
    settling_steps: int = 0


def largest_bytes(recording: Recording) -> tuple[int, int]:
    """The most that lives at once in forward and backward passes, and at any time.

    Without what kernels take inside, but for their copies. The passes come first: with a small
    batch an update may take the most, with a large one they do.
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
    """Two recordings do not run the same operators on sizes that grow along lines."""


def at_one_batch(recording: Recording) -> Timeline:
    """A timeline for the recorded batch size and no other."""
    return _timeline(recording, recording, (recording.batch,))


def matched(one: Recording, other: Recording) -> Timeline:
    """One timeline from recordings at two batch sizes, event by event.

    Raises:
        MismatchError: They differ in more than sizes, or a size falls, or grows faster than the
            batch.
    """
    if one.sections != other.sections:
        section = next(key for key in one.sections if one.sections[key] != other.sections.get(key))
        raise MismatchError(f"the events of the {section} differ")
    if one.handovers != other.handovers:
        raise MismatchError("what a step hands on to the next one differs")
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
        settling_steps=one.settling_steps,
        traced_at=traced_at,
    )


def _line(first: int, second: int, traced_at: Sequence[int], place: Place) -> Affine:
    if len(traced_at) == 1:
        return Affine(fixed=first, per_image=0)
    step = traced_at[1] - traced_at[0]
    slope, rest = divmod(second - first, step)
    fixed = first - slope * traced_at[0]
    if rest or slope < 0 or fixed < 0:  # a line that starts below zero is a curve
        raise MismatchError(f"{place}: {first} and {second} are on no line that rises from zero up")
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
