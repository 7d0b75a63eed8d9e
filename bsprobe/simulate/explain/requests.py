"""Requests of a predicted program to the allocator, in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bsprobe.simulate.allocator.blocks import Block
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Action, Kind, Place, Scratch, Section, Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One allocation."""

    section: Section
    size_bytes: int
    """Requested bytes, before the allocator rounds."""
    place: str
    """Operator and module of a predicted request, functions of a recorded one."""
    ends_before: int | None
    """Number of requests before the free; None if it lives to the end."""
    is_workspace: bool = False
    """True for the workspace of a convolution; only set for predicted requests."""
    origin: tuple[Place, Kind] | None = None
    """Place in the program, and kind; only set for predicted requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvolutionUse:
    """A predicted run of a convolution."""

    place: str
    origin: Place
    before: int
    """Number of requests before its workspace."""
    workspace_bytes: int
    """Zero if it needs none; then it makes no request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedRequests:
    """The simulated requests of a program."""

    requests: tuple[Request, ...]
    convolutions: tuple[ConvolutionUse, ...]


class _Ledger(CachingAllocator):
    """An allocator on an unlimited card that records its requests."""

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


_Label = tuple[Section, str, bool, tuple[Place, Kind]]
"""Section, description, true for a convolution's workspace, and origin of a request."""


class _Labels:
    """Labels the requests of each event of a playback.

    Args:
        timeline: The timeline of the playback.
        batch: Its micro-batch size.
        ledger: Its allocator.
    """

    def __init__(self, timeline: Timeline, batch: int, ledger: _Ledger) -> None:
        self.section = Section.SETUP
        """The section that is played."""
        self.labels: list[_Label] = []
        self.uses: list[ConvolutionUse] = []
        self._timeline = timeline
        self._batch = batch
        self._ledger = ledger

    def watch(self, action: Action, subject: int, _inside: int) -> None:
        """Label the requests since the last event.

        Args:
            action: The event's action.
            subject: The index of a scratch, handover or storage, depending on the action.
            _inside: Unused; bytes that a kernel held.
        """
        if action is Action.HAND_ON:
            return
        if action is Action.SCRATCH:
            self._label_scratch(self._timeline.scratches[subject])
        else:
            storage = self._timeline.storages[subject]
            self._label(self._unlabelled, _text(storage.place), (storage.place, storage.kind))

    @property
    def _unlabelled(self) -> int:
        return len(self._ledger.sizes) - len(self.labels)

    def _label(
        self, count: int, words: str, origin: tuple[Place, Kind], *, is_workspace: bool = False
    ) -> None:
        self.labels.extend([(self.section, words, is_workspace, origin)] * count)

    def _label_scratch(self, scratch: Scratch) -> None:
        words, origin = _text(scratch.place), (scratch.place, Kind.WORKSPACE)
        copies = sum(size.at(self._batch) > 0 for size in scratch.sizes)
        self._label(copies, f"{words}, inside", origin)
        if scratch.convolution is not None:
            self._note_use(scratch.place)
            self._label(self._unlabelled, f"{words}, workspace", origin, is_workspace=True)
            return
        if scratch.reduction is not None:
            self._label(self._unlabelled, f"{words}, inside", origin)
            return
        if len(self._ledger.sizes) - 1 not in self._ledger.ends:  # kept by cuBLAS
            origin = replace(scratch.place, module="", operator="cuBLAS"), Kind.WORKSPACE
        self._label(self._unlabelled, f"{words}, cuBLAS", origin)

    def _note_use(self, place: Place) -> None:
        """Note a convolution; its workspace is the last request without a label, if any."""
        sizes = self._ledger.sizes
        size = sizes[-1] if self._unlabelled else 0
        # Requests of cuDNN's benchmark come before the workspace.
        last = len(sizes) - 1 if size else len(self.labels)
        self.uses.append(
            ConvolutionUse(place=_text(place), origin=place, before=last, workspace_bytes=size)
        )


def predicted_requests(
    timeline: Timeline,
    batch: int,
    sections: Sequence[Section],
    make_playback: Callable[[CachingAllocator], Playback],
) -> PredictedRequests:
    """Play sections of a timeline and note every request.

    Args:
        timeline: The timeline to play.
        batch: The batch size.
        sections: The sections to play, in order; the set-up comes first.
        make_playback: Makes a new playback of the timeline at this batch size on an allocator.
    """
    ledger = _Ledger()
    playback = make_playback(ledger)
    labels = _Labels(timeline, batch, ledger)
    for section in sections:
        labels.section = section
        playback.play(section, labels.watch)
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
            zip(ledger.sizes, labels.labels, strict=True)
        )
    )
    return PredictedRequests(requests=requests, convolutions=tuple(labels.uses))


def _text(place: Place) -> str:
    return f"{place.phase}: {place.operator} in {place.module or 'the step'}"


def lives_until(end: int | None, count: int) -> int | None:
    """Return the end of a block as an index; None if it is freed after the last request."""
    return None if end == count else end
