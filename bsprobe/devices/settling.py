"""The end of a trial at the edge of its memory, on a GPU and on a simulated one."""

from collections.abc import Callable

_MOST_UNSETTLED = 12
"""Steps after which a trial ends though each made the allocator give its cache back. Some do so for
ever, and run."""


def until_settled(run: Callable[[], None], retries: Callable[[], int], *, ran: int) -> int:
    """Go on with a trial whose allocator has to give its cache back, until a step does without.

    After such a step free memory lies otherwise than before, and a later one may find no room: of
    148 simulated boundaries of DeepLabV2 that two steps had passed, 22 ran out of memory by the
    sixth (`benchmarks/settling.py`); of those that settled, none.

    Args:
        run: Runs a step.
        retries: Tells how often the cache has been given back so far.
        ran: Steps so far.

    Returns:
        The steps that have run in the end.
    """
    before = 0
    while before < (now := retries()) and ran < _MOST_UNSETTLED:
        before = now
        run()
        ran += 1
    return ran
