"""Contents of the memory at the peak of a step."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from bsprobe.analysis.memory_line import slope_through
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Action, Kind, Place, Section, Storage, Timeline

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One storage, or the memory that one kernel held while it ran."""

    place: Place
    kind: Kind
    size_bytes: int
    """Requested bytes, before the allocator rounds."""
    per_image_bytes: int
    """Bytes that one image more adds, at the same moment of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakContents:
    """Everything that is allocated at the peak: the pieces and their rounding."""

    place: Place
    """Place in the program at the peak."""
    pieces: tuple[Piece, ...]
    allocated_bytes: int
    """Bytes of all blocks: the peak."""
    reserved_bytes: int
    """Most bytes reserved, at the peak or at another time."""

    @property
    def requested_bytes(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.size_bytes for piece in self.pieces)

    @property
    def rounding_bytes(self) -> int:
        """Bytes by which the blocks exceed the requests."""
        return self.allocated_bytes - self.requested_bytes

    def bytes_by(self, key: Callable[[Piece], Key]) -> dict[Key, int]:
        """Return the bytes of the pieces by a key, largest first."""
        return _totals((key(piece), piece.size_bytes) for piece in self.pieces)


class Moment(NamedTuple):
    """The state after an event of a playback; a tuple, as there are many."""

    part: int
    """Number of the section: 0 is the set-up, 1 the first step."""
    action: Action
    subject: int
    inside: int
    """Bytes that a kernel held while it ran, freed since."""
    kept: int
    """Bytes that cuBLAS keeps."""
    allocated: int
    reserved: int

    @property
    def level(self) -> int:
        """Most bytes allocated during the event."""
        return self.allocated + self.inside


def play_watched(
    timeline: Timeline,
    playback: Playback,
    allocator: CachingAllocator,
    sections: Sequence[Section],
    on_event: Callable[[Place, Kind], None] | None = None,
) -> list[Moment]:
    """Play the set-up and then some sections, and record every event.

    Args:
        timeline: The timeline of the playback.
        playback: A new playback.
        allocator: The allocator that serves the playback, directly or indirectly.
        sections: The sections after the set-up.
        on_event: Called after each event with its place in the program and its kind.

    Returns:
        The moment after each event.

    Raises:
        SimulatedOutOfMemoryError: The allocator's card is too small.
    """
    moments: list[Moment] = []
    part = 0

    def watch(action: Action, subject: int, inside: int) -> None:
        kept, allocated = playback.kept_bytes, allocator.allocated_bytes
        moments.append(
            Moment(part, action, subject, inside, kept, allocated, allocator.reserved_bytes)
        )
        if on_event is not None:
            scratch = action is Action.SCRATCH
            kind = Kind.WORKSPACE if scratch else storage_of(timeline, action, subject).kind
            on_event(place_of(timeline, action, subject), kind)

    for part, section in enumerate((Section.SETUP, *sections)):  # noqa: B007 - `watch` reads it
        playback.play(section, watch)
    return moments


def place_of(timeline: Timeline, action: Action, subject: int) -> Place:
    """Return the place in the program of an event.

    Args:
        timeline: The timeline of the event.
        action: The event's action.
        subject: The index of a scratch, handover or storage, depending on the action.
    """
    if action is Action.SCRATCH:
        return timeline.scratches[subject].place
    return storage_of(timeline, action, subject).place


def storage_of(timeline: Timeline, action: Action, subject: int) -> Storage:
    """Return the storage of an event that is not a scratch.

    Args:
        timeline: The timeline of the event.
        action: The event's action.
        subject: The index of a handover or storage, depending on the action.
    """
    number = timeline.handovers[subject][0] if action is Action.HAND_ON else subject
    return timeline.storages[number]


def contents_of(
    timeline: Timeline,
    batch: int,
    moments: Sequence[Moment],
    reserved_bytes: int,
    others: Mapping[int, Sequence[Moment]] = MappingProxyType({}),
) -> PeakContents:
    """Return the contents of the memory at the fullest moment of a playback.

    Args:
        timeline: The timeline that was played.
        batch: The batch size.
        moments: The result of `play_watched`.
        reserved_bytes: Most bytes reserved during the playback.
        others: The moments of other batch sizes, which tell how the memory inside the kernel at the
            peak grows.
    """
    number = max(range(len(moments)), key=lambda each: moments[each].level)
    peak = moments[number]
    place = place_of(timeline, peak.action, peak.subject)
    played = ((each.action, each.subject) for each in moments[: number + 1])
    pieces = list(_pieces(timeline, batch, played))
    if peak.inside:
        sizes = {other: each[number].inside for other, each in others.items()}
        pieces.append(
            Piece(
                place=place,
                kind=Kind.WORKSPACE,
                size_bytes=peak.inside,
                per_image_bytes=slope_through(batch, peak.inside, sizes),
            )
        )
    if peak.kept:
        kept = Place(phase=place.phase, module="", operator="cuBLAS")
        pieces.append(
            Piece(place=kept, kind=Kind.WORKSPACE, size_bytes=peak.kept, per_image_bytes=0)
        )
    return PeakContents(
        place=place,
        pieces=tuple(pieces),
        allocated_bytes=peak.level,
        reserved_bytes=reserved_bytes,
    )


def _pieces(
    timeline: Timeline, batch: int, played: Iterable[tuple[Action, int]]
) -> Iterable[Piece]:
    live: dict[int, None] = {}
    for action, subject in played:
        if action is Action.ALLOCATE:
            live[subject] = None
        elif action is Action.FREE:
            del live[subject]
        elif action is Action.HAND_ON:
            newer, older = timeline.handovers[subject]
            del live[newer]
            live[older] = None
    for subject in live:
        storage = timeline.storages[subject]
        yield Piece(
            place=storage.place,
            kind=storage.kind,
            size_bytes=storage.size.at(batch),
            per_image_bytes=storage.size.per_image,
        )


def _totals(pairs: Iterable[tuple[Key, int]]) -> dict[Key, int]:
    totals: Counter[Key] = Counter()
    for key, size in pairs:
        totals[key] += size
    return dict(totals.most_common())
