"""What is in memory at the moment when a step takes the most of it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bsprobe.simulate.allocator import CachingAllocator
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Action, Kind, Place, Section, Timeline

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One storage, or what one kernel took inside."""

    place: Place
    kind: Kind
    size_bytes: int
    """As it was asked for, before the allocator rounds."""
    per_image_bytes: int
    """How much of it one image more adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakContents:
    """Everything that is allocated at the peak; the pieces and the rounding are all of it."""

    place: Place
    """Where the program was."""
    pieces: tuple[Piece, ...]
    allocated_bytes: int
    """The sum of the blocks: the peak."""
    reserved_bytes: int
    """The most that was taken from the card, then or at another time."""

    @property
    def rounding_bytes(self) -> int:
        """What blocks are larger than what was asked for."""
        return self.allocated_bytes - sum(piece.size_bytes for piece in self.pieces)

    def bytes_by(self, key: Callable[[Piece], Key]) -> dict[Key, int]:
        """Bytes of the pieces, grouped, largest first."""
        return _totals((key(piece), piece.size_bytes) for piece in self.pieces)

    def per_image_by(self, key: Callable[[Piece], Key]) -> dict[Key, int]:
        """Bytes that one image more adds, grouped as above."""
        return _totals((key(piece), piece.per_image_bytes) for piece in self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """An event, by its number in the playing, and what its kernel took inside."""

    number: int
    inside: int
    allocated_bytes: int


def contents_at_peak(
    timeline: Timeline,
    batch: int,
    playback: Playback,
    allocator: CachingAllocator,
    sections: Sequence[Section] = (Section.FIRST_STEP, Section.LATER_STEP),
) -> PeakContents:
    """Play a timeline and say what is allocated when most is.

    Args:
        timeline: What is played.
        batch: At which batch size.
        playback: Plays it; fresh.
        allocator: The one the playback plays on.
        sections: What follows the set-up.

    Raises:
        SimulatedOutOfMemoryError: The allocator's card is too small for it.
    """
    played: list[tuple[Action, int]] = []
    peak = _Moment(number=0, inside=0, allocated_bytes=0)

    def watch(action: Action, subject: int, inside: int) -> None:
        nonlocal peak
        level = allocator.allocated_bytes + inside
        if level > peak.allocated_bytes:
            peak = _Moment(number=len(played), inside=inside, allocated_bytes=level)
        played.append((action, subject))

    for section in (Section.SETUP, *sections):
        playback.play(section, watch)
    action, subject = played[peak.number]
    holder = timeline.scratches if action is Action.SCRATCH else timeline.storages
    place = holder[subject].place
    pieces = list(_pieces(timeline, batch, played[: peak.number + 1]))
    if peak.inside:
        pieces.append(
            Piece(place=place, kind=Kind.WORKSPACE, size_bytes=peak.inside, per_image_bytes=0)
        )
    return PeakContents(
        place=place,
        pieces=tuple(pieces),
        allocated_bytes=peak.allocated_bytes,
        reserved_bytes=allocator.statistics.peak_reserved_bytes,
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
