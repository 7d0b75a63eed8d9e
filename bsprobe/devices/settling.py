"""Additional steps of a trial: close to its memory limit, or while its memory grows."""

from collections.abc import Callable

MOST_UNSETTLED = 12
"""Maximum number of steps in a trial whose every step flushes the cache. Some networks flush it in
every step without running out of memory."""


def until_settled(run: Callable[[], None], retries: Callable[[], int], *, ran: int) -> int:
    """Run more steps while the allocator flushes its cache, until a step does not.

    A flush changes the layout of free memory, so a later step can run out of memory. Of 148
    simulated boundaries of DeepLabV2 that ran two steps, 22 ran out of memory by the sixth
    (`benchmarks/settling.py`). Of those that settled, none did.

    Args:
        run: Runs a step.
        retries: Returns the number of flushes so far.
        ran: Number of steps so far.

    Returns:
        The number of steps, including `ran`.
    """
    before = 0
    while before < (now := retries()) and ran < MOST_UNSETTLED:
        before = now
        run()
        ran += 1
    return ran


def until_level(run: Callable[[], None], may_grow: Callable[[], bool]) -> None:
    """Run more steps while memory seems to grow, to tell growth from the first steps of a program.

    Args:
        run: Runs a step.
        may_grow: Returns whether memory seems to grow and another step would tell more.
    """
    while may_grow():
        run()
