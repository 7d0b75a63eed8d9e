"""The user's recipe, from which batch and learning rate are scaled."""

from collections.abc import Mapping
from typing import Any

from bsprobe.analysis.recommendation import check_target
from bsprobe.records.runs import Target


def asked_target(given: Mapping[str, Any]) -> Target:
    """Convert the options of the recipe.

    Raises:
        UsageError: A learning rate is given without its batch.
    """
    target = Target(
        batch=given["target_batch"],
        base_batch=given["base_batch"],
        base_learning_rate=given["base_lr"],
        base_updates=given["base_updates"],
        lr_rule=given["lr_rule"],
        headroom=given["headroom"],
    )
    check_target(target)
    return target
