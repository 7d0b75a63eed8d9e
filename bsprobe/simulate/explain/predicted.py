"""Explanation of the memory of a variant at one batch size, by playing its timeline."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bsprobe.records.explanations import Allocation, Explanation, LinePoint
from bsprobe.records.trials import Source, TrialSpec
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.allocator.driver import MemoryDriver, SimulatedDriver
from bsprobe.simulate.explain.levels import step_timeline
from bsprobe.simulate.explain.peak import Moment, PeakContents, contents_of, play_watched
from bsprobe.simulate.explain.snapshot import SnapshotDriver, SnapshotMemory
from bsprobe.simulate.playback import KernelLimitError, Memory, NoPlanError, Playback
from bsprobe.simulate.timeline import Section, Timeline

_UNLIMITED_BYTES = 2**44
"""The memory of an unlimited card, which sets the address range of an expandable segment: more than
any request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A simulated card, with the allocator and the playback to use on it."""

    capacity_bytes: int
    outside_allocator_bytes: int
    total_bytes: int
    new_allocator: Callable[[MemoryDriver], CachingAllocator]
    """Makes an allocator with PyTorch's settings."""
    new_playback: Callable[[Timeline, int, Memory], Playback]
    """Makes a playback of a timeline, at a batch size, on a memory."""
    fits: bool
    """True if the trial fits the card; if not, it is played on an unlimited card."""

    @property
    def available_bytes(self) -> int | None:
        """Bytes that the allocator can reserve; None if unlimited."""
        return self.capacity_bytes - self.outside_allocator_bytes if self.fits else None

    def total_bytes_with(self, available_bytes: int | None) -> int:
        """Return the memory of the card, or that of an unlimited card for None."""
        return _UNLIMITED_BYTES if available_bytes is None else self.total_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Played:
    moments: Sequence[Moment]
    reserved_bytes: int


def explain(timeline: Timeline, spec: TrialSpec, card: Card) -> Explanation:
    """Play a trial and explain its memory.

    Args:
        timeline: The variant's timeline, made of two batch sizes if possible.
        spec: The trial; the timeline already includes its accumulation.
        card: The card.

    Raises:
        KernelLimitError, NoPlanError: The trial cannot run on a card of any size.
    """
    batch = spec.batch_size
    sections = timeline.steps(spec.warmup_steps + spec.measured_steps)
    played = _play(timeline, batch, sections, card, card.available_bytes)
    others = {
        other: found
        for other in _other_batches(timeline, batch)
        if (found := _unlimited(timeline, other, sections, card)) is not None
    }
    contents = contents_of(
        timeline,
        batch,
        played.moments,
        played.reserved_bytes,
        {other: each.moments for other, each in others.items()},
    )
    following = others.get(batch + 1)
    outside = card.outside_allocator_bytes
    points = {batch: contents} if others else {}
    points |= {
        other: contents_of(timeline, other, each.moments, each.reserved_bytes)
        for other, each in others.items()
    }
    return Explanation(
        spec=spec,
        source=Source.PREDICTED,
        fits=card.fits,
        capacity_bytes=card.capacity_bytes,
        outside_allocator_bytes=outside,
        phase=str(contents.place.phase),
        module=contents.place.module,
        operator=contents.place.operator,
        allocations=_allocations(contents),
        peak_allocated_bytes=contents.allocated_bytes,
        peak_reserved_bytes=contents.reserved_bytes,
        scales=len(timeline.traced_at) > 1,
        line=tuple(_point(other, each, outside) for other, each in sorted(points.items())),
        next_peak_bytes=None if following is None else following.reserved_bytes + outside,
        timeline=step_timeline(
            timeline, batch, played.moments, contents, following.moments if following else ()
        ),
    )


def snapshot(timeline: Timeline, batch: int, card: Card) -> bytes:
    """Return a pickled memory snapshot of the set-up and the steps until one repeats.

    Args:
        timeline: The timeline to play.
        batch: The batch size.
        card: The card.
    """
    available = card.available_bytes
    driver = SnapshotDriver(available_bytes=available, total_bytes=card.total_bytes_with(available))
    allocator = card.new_allocator(driver)
    memory = SnapshotMemory(allocator, driver)
    playback = card.new_playback(timeline, batch, memory)
    play_watched(timeline, playback, allocator, timeline.steps(2), memory.place)
    return memory.pickled()


def _play(
    timeline: Timeline,
    batch: int,
    sections: Sequence[Section],
    card: Card,
    available_bytes: int | None,
) -> _Played:
    driver = SimulatedDriver(
        available_bytes=available_bytes, total_bytes=card.total_bytes_with(available_bytes)
    )
    allocator = card.new_allocator(driver)
    playback = card.new_playback(timeline, batch, allocator)
    moments = play_watched(timeline, playback, allocator, sections)
    return _Played(moments=moments, reserved_bytes=allocator.statistics.peak_reserved_bytes)


def _other_batches(timeline: Timeline, batch: int) -> list[int]:
    """Return the batches of the line beside the explained one: the smallest, the next, the double.

    There are none if the timeline holds for one batch only.
    """
    if len(timeline.traced_at) == 1:
        return []
    return sorted({timeline.traced_at[0], batch + 1, 2 * batch + 1} - {batch})


def _unlimited(
    timeline: Timeline, batch: int, sections: Sequence[Section], card: Card
) -> _Played | None:
    """Play a batch size on an unlimited card; None if kernels or cuDNN rule it out."""
    try:
        return _play(timeline, batch, sections, card, None)
    except (KernelLimitError, NoPlanError):
        return None


def _point(batch: int, contents: PeakContents, outside_allocator_bytes: int) -> LinePoint:
    place, requested = contents.place, contents.requested_bytes
    return LinePoint(
        batch=batch,
        used_bytes=requested + outside_allocator_bytes,
        fragmentation_bytes=contents.reserved_bytes - requested,
        phase=str(place.phase),
        module=place.module,
        operator=place.operator,
    )


def _allocations(contents: PeakContents) -> tuple[Allocation, ...]:
    sizes: Counter[tuple[str, str, str, str]] = Counter()
    slopes: Counter[tuple[str, str, str, str]] = Counter()
    for piece in contents.pieces:
        place = piece.place
        key = (place.module, str(piece.kind), place.operator, str(place.phase))
        sizes[key] += piece.size_bytes
        slopes[key] += piece.per_image_bytes
    return tuple(
        Allocation(
            module=module,
            kind=kind,
            operator=operator,
            phase=phase,
            size_bytes=size,
            per_image_bytes=slopes[module, kind, operator, phase],
        )
        for (module, kind, operator, phase), size in sizes.most_common()
    )
