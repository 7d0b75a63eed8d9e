"""The learning rate over a training, counted in optimizer updates."""

POLY_POWER = 0.9
"""Of the released DeepLabV2 solvers (`lr_policy: "poly"`, `power: 0.9`)."""


def poly_with_warmup(update: int, *, updates: int, warmup_updates: int) -> float:
    """The share of the full learning rate that an update is made with.

    It rises linearly over the first `warmup_updates` (Goyal et al. 2017, 2.2), then falls as
    `(1 - update / updates) ** 0.9`. An accumulated update is one update, however many
    micro-batches it has.

    Args:
        update: 0 for the first one; from `updates` on the share is 0.
        updates: Of the whole training.
        warmup_updates: Of which so many warm up.
    """
    if update < warmup_updates:
        return (update + 1) / warmup_updates
    left: float = max(0.0, 1 - update / updates) ** POLY_POWER
    return left
