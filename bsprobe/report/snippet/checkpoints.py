"""The part of a snippet that makes a network recompute the blocks that the trials recomputed."""

from collections.abc import Sequence

from bsprobe.records.checkpointing import Checkpointed, CheckpointWay
from bsprobe.records.trials import Trial
from bsprobe.records.variants import Checkpointing, Variant

CALL = "    checkpoint_blocks(model)\n"
_UNKNOWN = """
# Trained with activation checkpointing: each block ran in torch.utils.checkpoint.checkpoint, with
# use_reentrant=False.
"""
_BEGINNING = '''

def checkpoint_blocks(model):
    """Recompute blocks in the backward pass, as the trials did."""
'''
_BLOCKS = """\
    from fnmatch import fnmatchcase
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    def run(forward, *inputs, **named):
        inputs = [list(each) if isinstance(each, list) else each for each in inputs]  # as now
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    patterns = [
{patterns}    ]
    named = {{
        name: module
        for name, module in model.named_modules()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }}
    for name, module in named.items():
        is_inside = any(name.startswith(f"{{other}}.") for other in named)
        if not is_inside and "forward" not in vars(module):  # not wrapped already
            module.forward = partial(run, module.forward)
"""
_SEGMENTS = """\
    from functools import partial

    from torch.utils.checkpoint import checkpoint_sequential

    for name in {names}:
        layers, units = list(model.get_submodule(name)), []
        for layer in layers:
            if units and getattr(layer, "inplace", False):
                units[-1].append(layer)  # it changes the output of the layer before it
            else:
                units.append(torch.nn.Sequential(layer))
        count = round(len(layers) ** 0.5)
        model.get_submodule(name).forward = partial(
            checkpoint_sequential, units, count, use_reentrant=False
        )
"""
_ARGUMENTS = {
    CheckpointWay.TIMM: "True",
    CheckpointWay.TRANSFORMERS: 'gradient_checkpointing_kwargs={"use_reentrant": False}',
    CheckpointWay.TRANSFORMERS_LATER: 'activation_checkpointing_kwargs={"use_reentrant": False}',
}
"""Arguments of the networks' methods, by their names."""


def parts_of(variant: Variant, trials: Sequence[Trial]) -> tuple[Checkpointed, ...]:
    """Return the modules that the trials of a variant recomputed."""
    measured = (each.measurement for each in trials if each.spec.variant == variant)
    return next((each.model.checkpointed for each in measured if each is not None), ())


def definition(variant: Variant, parts: Sequence[Checkpointed]) -> str:
    """Return the function `checkpoint_blocks`, or a comment if the modules are not known.

    Args:
        variant: The variant to train.
        parts: The modules that its trials recomputed.
    """
    if variant.checkpointing is Checkpointing.OFF:
        return ""
    if not parts:
        return _UNKNOWN
    blocks = [each.modules for each in parts if each.way is CheckpointWay.BLOCK]
    chains = [each.modules for each in parts if each.way is CheckpointWay.SEGMENTS]
    text = "".join(_own_call(each) for each in parts if each.way in _ARGUMENTS)
    if blocks:
        text += _BLOCKS.format(patterns="".join(f'        "{each}",\n' for each in blocks))
    if chains:
        text += _SEGMENTS.format(names=repr(chains).replace("'", '"'))
    return _BEGINNING + text + "\n"


def call(parts: Sequence[Checkpointed]) -> str:
    """Return the line that calls it; empty without recomputed modules."""
    return CALL if parts else ""


def _own_call(part: Checkpointed) -> str:
    module = f'model.get_submodule("{part.modules}")' if part.modules else "model"
    return f"    {module}.{part.way}({_ARGUMENTS[part.way]})\n"
