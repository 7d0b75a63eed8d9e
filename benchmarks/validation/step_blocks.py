"""The blocks of a predicted step, as the simulated allocator hands them out.

The split of a block depends on all earlier frees, back to the program's first request. The
program is therefore played from its start, with the workspaces of a recorded step. Its other
allocations before that step are unknown: workspaces are larger while cuDNN's plans are timed, and
PyTorch versions differ in emptying the cache afterwards (`findAlgorithms` in
ATen/native/cudnn/Conv_v7.cpp). So some blocks differ.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from benchmarks.validation.recorded_steps import RecordedStep
from bsprobe.simulate.allocator.caching import CachingAllocator
from bsprobe.simulate.timeline import Action, Recording, Section

if TYPE_CHECKING:
    from bsprobe.simulate.allocator.blocks import Block

_STEPS_BEFORE: Final = 4
"""Steps played before the compared one; after them, the blocks are the same in each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedStep:
    """The steady step, after all earlier steps were played."""

    blocks: tuple[int, ...]
    """Bytes of the block of each tensor, in order."""
    peak_bytes: int
    """Above the level at the step's start, workspaces included."""


@dataclass(slots=True, kw_only=True)
class _Player:
    recording: Recording
    workspaces: dict[int, list[int]]
    """Bytes, by the number of tensors that the step has allocated before."""
    allocator: CachingAllocator = field(default_factory=CachingAllocator)
    live: "dict[int, Block]" = field(default_factory=dict)

    def play(self, section: Section) -> tuple[int, ...]:
        """Play a section; return the blocks of its allocations."""
        blocks: list[int] = []
        for action, subject in self.recording.sections[section]:
            if action is Action.SCRATCH:
                continue  # the recorded ones are used instead
            if action is Action.ALLOCATE:
                block = self.allocator.malloc(self.recording.storages[subject][2])
                self.live[subject] = block
                blocks.append(block.size)
                if section is not Section.SETUP:
                    self._take(self.workspaces[len(blocks)])
            elif action is Action.FREE:
                self.allocator.free(self.live.pop(subject))
            else:
                newer, older = self.recording.handovers[subject]
                self.live[older] = self.live.pop(newer)
        return tuple(blocks)

    def _take(self, workspaces: Sequence[int]) -> None:
        for size in workspaces:
            self.allocator.free(self.allocator.malloc(size))


def played_step(recording: Recording, step: RecordedStep) -> PlayedStep:
    """Play a program for some steps, then one more.

    Args:
        recording: The recording of the predicted program.
        step: The recorded step whose workspaces are used in every step.
    """
    workspaces: dict[int, list[int]] = defaultdict(list)
    for each in step.workspaces:
        workspaces[each.after].append(each.size_bytes)
    player = _Player(recording=recording, workspaces=workspaces)
    first = [each for each in recording.sections if each is not Section.LATER_STEP]
    for section in first:
        player.play(section)
    for _ in range(_STEPS_BEFORE):
        player.play(Section.LATER_STEP)
    start = player.allocator.statistics.allocated_bytes
    player.allocator.reset_peaks()
    blocks = player.play(Section.LATER_STEP)
    peak = player.allocator.statistics.peak_allocated_bytes
    return PlayedStep(blocks=blocks, peak_bytes=peak - start)
