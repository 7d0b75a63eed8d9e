"""FABRICATED recordings of trials, made from the simulation: nothing ran on a GPU."""

import pickle
from collections.abc import Callable
from typing import Any

from bsprobe.records.explanations import RecordedTrial
from bsprobe.records.trials import Measurement, ModelFacts, Peak, TrialSpec
from bsprobe.records.units import GIB, MIB
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.explain.peak import place_of
from bsprobe.simulate.explain.snapshot import SnapshotDriver, SnapshotMemory
from bsprobe.simulate.playback import Memory, Playback
from bsprobe.simulate.timeline import Action, Kind, Section, Timeline
from tests.fake_gpu.fake_card import FRAMES
from tests.support.builders import GROUPS

OUTSIDE = 321 * MIB
CAPACITY = 12 * GIB
STEPS = 4
_SECTIONS = {
    "building": Section.SETUP,
    "step 1": Section.FIRST_STEP,
    **{f"step {number}": Section.LATER_STEP for number in range(2, STEPS + 1)},
}


def recorded(
    timeline: Timeline, spec: TrialSpec, new_playback: Callable[[Memory], Playback]
) -> tuple[dict[str, Any], RecordedTrial]:
    """Return a snapshot with the history of a trial of four steps, and the trial's other records.

    Args:
        timeline: The timeline to play.
        spec: The trial.
        new_playback: Makes the playback on a memory.
    """
    driver = SnapshotDriver(available_bytes=None, total_bytes=80 * GIB)
    allocator = CachingAllocator(driver)
    memory = SnapshotMemory(allocator, driver)
    playback = new_playback(memory)

    def watch(action: Action, subject: int, _inside: int) -> None:
        place = place_of(timeline, action, subject)
        memory.place(place, Kind.TEMPORARY)
        for entry in driver.trace[watched[0] :]:
            entry["frames"] = FRAMES[place.phase]
        watched[0] = len(driver.trace)

    watched = [0]
    driver.note("snapshot", 0, 0)  # the mark of "opening"
    for phase, section in _SECTIONS.items():
        driver.note("snapshot", 0, 0)
        if phase == "step 1":
            allocator.reset_peaks()
        playback.play(section, watch)
    driver.note("snapshot", 0, 0)  # the final snapshot
    statistics = allocator.statistics
    peak = Peak(
        allocated_bytes=statistics.peak_allocated_bytes,
        reserved_bytes=statistics.peak_reserved_bytes,
    )
    trial = RecordedTrial(
        spec=spec,
        measurement=Measurement(
            model=ModelFacts(parameters=1, groups=GROUPS),
            first_step=peak,
            steady=peak,
            outside_allocator_bytes=OUTSIDE,
            updates_applied=STEPS,
            steps=STEPS,
        ),
        phases=("opening", *_SECTIONS),
        device_index=0,
        capacity_bytes=CAPACITY,
    )
    return pickle.loads(memory.pickled()), trial  # noqa: S301 - pickled on this line
