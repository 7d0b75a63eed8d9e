"""The requests that a predicted program makes of the allocator, in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bsprobe.simulate.allocator.blocks import Block
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Action, Kind, Place, Section, Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One allocation."""

    section: Section
    size_bytes: int
    """As it was asked for, before the allocator rounds."""
    place: str
    """Who asked: an operator and a module where it is predicted, functions where it is recorded."""
    ends_before: int | None
    """How many requests had been made when it was given back; None if it lives to the end."""
    is_workspace: bool = False
    """Whether it is a convolution's; known of predicted ones alone."""
    origin: tuple[Place, Kind] | None = None
    """Where in the program it was made and what for; known of predicted ones alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionUse:
    """A convolution that is predicted to run."""

    place: str
    origin: Place
    before: int
    """How many requests come before its workspace."""
    workspace_bytes: int
    """Zero where it should need none: then it makes no request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRequests:
    """A program's requests as the simulation makes them."""

    requests: tuple[Request, ...]
    convolutions: tuple[ConvolutionUse, ...]


class _Ledger(CachingAllocator):
    """An endless card that notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.ends: dict[int, int] = {}
        self._number: dict[int, int] = {}

    def malloc(self, size: int, stream: int = 0) -> Block:
        block = super().malloc(size, stream)
        self._number[block.address] = len(self.sizes)
        self.sizes.append(size)
        return block

    def free(self, block: Block) -> None:
        self.ends[self._number.pop(block.address)] = len(self.sizes)
        super().free(block)


def predicted_requests(
    timeline: Timeline,
    batch: int,
    sections: Sequence[Section],
    make_playback: Callable[[CachingAllocator], Playback],
) -> PredictedRequests:
    """Play sections of a timeline and note every request.

    Args:
        timeline: What is played.
        batch: At which batch size.
        sections: Which, in order; the set-up comes first.
        make_playback: Makes a fresh playback of this timeline at this batch on an allocator.
    """
    ledger = _Ledger()
    playback = make_playback(ledger)
    labels: list[tuple[Section, str, bool, tuple[Place, Kind]]] = []
    uses: list[ConvolutionUse] = []
    section = Section.SETUP

    def watch(action: Action, subject: int, _inside: int) -> None:
        fresh = len(ledger.sizes) - len(labels)
        if action is Action.HAND_ON:
            return
        if action is not Action.SCRATCH:
            storage = timeline.storages[subject]
            label = section, _text(storage.place), False, (storage.place, storage.kind)
            labels.extend([label] * fresh)
            return
        scratch = timeline.scratches[subject]
        copies = sum(size.at(batch) > 0 for size in scratch.sizes)
        place, is_convolution = _text(scratch.place), scratch.convolution is not None
        origin = scratch.place, Kind.WORKSPACE
        labels.extend([(section, f"{place}, inside", False, origin)] * copies)
        if is_convolution:
            size = ledger.sizes[-1] if fresh > copies else 0
            last = len(ledger.sizes) - 1 if size else len(labels)  # after what is timed, if it is
            uses.append(
                ConvolutionUse(place=place, origin=scratch.place, before=last, workspace_bytes=size)
            )
        elif len(ledger.sizes) - 1 not in ledger.ends:  # it lives on: no module's own
            origin = replace(scratch.place, module="", operator="cuBLAS"), Kind.WORKSPACE
        words = f"{place}, {'workspace' if is_convolution else 'cuBLAS'}"
        labels.extend([(section, words, is_convolution, origin)] * (fresh - copies))

    for section in sections:
        playback.play(section, watch)
    requests = tuple(
        Request(
            section=where,
            size_bytes=size,
            place=place,
            ends_before=lives_until(ledger.ends.get(number), len(ledger.sizes)),
            is_workspace=is_workspace,
            origin=origin,
        )
        for number, (size, (where, place, is_workspace, origin)) in enumerate(
            zip(ledger.sizes, labels, strict=True)
        )
    )
    return PredictedRequests(requests=requests, convolutions=tuple(uses))


def _text(place: Place) -> str:
    return f"{place.phase}: {place.operator} in {place.module or 'the step'}"


def lives_until(end: int | None, count: int) -> int | None:
    """What is given back after the last request lives to the end."""
    return None if end == count else end
