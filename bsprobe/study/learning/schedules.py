"""Learning rate schedules over optimizer updates."""

POLY_POWER = 0.9
"""The power in the released solvers of DeepLabV2 (`lr_policy: "poly"`, `power: 0.9`)."""


def poly_with_warmup(update: int, *, updates: int, warmup_updates: int) -> float:
    """The learning rate of an update, as a share of the full rate.

    It rises linearly over the first `warmup_updates` (Goyal et al. 2017, 2.2), then falls as
    `(1 - update / updates) ** 0.9`. An accumulated update is one update.

    Args:
        update: The update, from 0; from `updates` on the share is 0.
        updates: Number of updates of the training.
        warmup_updates: Number of warm-up updates among them.
    """
    if update < warmup_updates:
        return (update + 1) / warmup_updates
    left: float = max(0.0, 1 - update / updates) ** POLY_POWER
    return left
