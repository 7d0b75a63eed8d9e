"""The steps of a predicted trial, with the bytes that are allocated at the end of each."""

import itertools
from functools import partial

from bsprobe.devices.base import ReportPhase
from bsprobe.devices.settling import until_settled
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.playback import Playback
from bsprobe.simulate.timeline import Section, Timeline


class PlayedSteps:
    """Plays the steps of a trial, as many as the trial on a device would run.

    Args:
        timeline: The timeline.
        playback: Its playback, after the set-up.
        allocator: The allocator of the playback.
        report: Called when a phase begins.
    """

    def __init__(
        self,
        timeline: Timeline,
        playback: Playback,
        allocator: CachingAllocator,
        report: ReportPhase,
    ) -> None:
        self._timeline = timeline
        self._playback = playback
        self._allocator = allocator
        self._report = report
        self._ends: list[int] = []

    @property
    def ends(self) -> tuple[int, ...]:
        """Bytes allocated at the end of each step."""
        return tuple(self._ends)

    def play_first(self) -> None:
        """Play the first step."""
        self._report("step 1")
        self._play(Section.FIRST_STEP)

    def play_others(self, asked: int) -> None:
        """Play the steps after the first.

        Args:
            asked: The number of steps in all; there are more until they settle.
        """
        self._report(f"step 2 of {asked}")
        self._settle()
        self._play_alike(self._timeline.repeats(asked))
        until_settled(
            partial(self._play, Section.LATER_STEP),
            lambda: self._allocator.statistics.num_alloc_retries,
            ran=len(self._ends),
        )

    def _play(self, section: Section) -> None:
        self._playback.play(section)
        self._note_end()

    def _note_end(self) -> None:
        self._ends.append(self._allocator.allocated_bytes)

    def _settle(self) -> None:
        """Play the steps between the first one and the one that repeats."""
        if not self._timeline.settling_steps:
            return
        ends = iter(itertools.accumulate(self._timeline.settling))
        count, end = 0, next(ends)

        def watch(*_: object) -> None:
            nonlocal count, end
            count += 1
            while count == end:
                self._note_end()
                self._report(f"step {len(self._ends) + 1}")
                end = next(ends, 0)

        self._playback.play(Section.SETTLING_STEPS, watch)

    def _play_alike(self, times: int) -> None:
        """Play the later step `times` times, or until it leaves the allocator's layout unchanged.

        All further steps then end alike.
        """
        before = self._allocator.layout()
        for number in range(1, times + 1):
            self._play(Section.LATER_STEP)
            before, last = self._allocator.layout(), before
            if before == last:
                self._ends += [self._ends[-1]] * (times - number)
                break
