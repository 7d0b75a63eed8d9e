"""The names of `checkpointing.py.jinja`: the modules that the trials recomputed."""

from collections.abc import Sequence

from bsprobe.records.checkpointing import Checkpointed, CheckpointWay
from bsprobe.records.variants import Checkpointing, Variant
from bsprobe.report.snippet.literals import literal

_ARGUMENTS = {
    CheckpointWay.TIMM: "True",
    CheckpointWay.TRANSFORMERS: 'gradient_checkpointing_kwargs={"use_reentrant": False}',
    CheckpointWay.TRANSFORMERS_LATER: 'activation_checkpointing_kwargs={"use_reentrant": False}',
}
"""Arguments of the networks' methods, by their names."""


def names(variant: Variant, parts: Sequence[Checkpointed]) -> dict[str, object]:
    """Return the names of the template.

    Args:
        variant: The variant to train.
        parts: The modules that its trials recomputed; empty if not known.
    """
    is_on = variant.checkpointing is Checkpointing.ON
    return {
        "checkpointed": is_on and bool(parts),
        "checkpointing_is_unknown": is_on and not parts,
        "own_methods": [
            (_module(each.modules), str(each.way), _ARGUMENTS[each.way])
            for each in parts
            if each.way in _ARGUMENTS
        ],
        "blocks": [each.modules for each in parts if each.way is CheckpointWay.BLOCK],
        "chains": [each.modules for each in parts if each.way is CheckpointWay.SEGMENTS],
    }


def _module(name: str) -> str:
    return f"model.get_submodule({literal(name)})" if name else "model"
