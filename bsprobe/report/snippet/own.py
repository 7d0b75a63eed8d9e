"""The recommendation as Python for a user-supplied loss, optimizer or batches."""

from collections.abc import Sequence
from string import Template

from bsprobe.analysis.recommendation import LearningRateRule, rate_factor, recipe_of
from bsprobe.records.checkpointing import Checkpointed
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import Target, TrainingPlan
from bsprobe.records.variants import Variant
from bsprobe.report.snippet import checkpoints
from bsprobe.report.snippet.settings import settings

_TOGETHER = """
# In each of {} processes, pass the network wrapped in DistributedDataParallel, and the batches and
# the device of that process. Gradients are averaged over the processes.{}"""
_GUARD = """\
    if RATE_FACTOR is None:
        raise SystemExit("set RATE_FACTOR: it depends on the batch that your rates belong to")
"""
_PAIR = "Each is (inputs, targets), tensors; loss(outputs, targets) is a scalar."
_WHOLE_BATCH = (
    "loss(model, batch, device) moves one to the device, runs the model and returns the loss."
)
_PARTS = Template("""\
        for inputs, targets in itertools.islice(stream, ACCUMULATION_STEPS):
            inputs = inputs.to(device, non_blocking=True$layout)
            targets = targets.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=$dtype, enabled=$autocast):
                part = loss(model(inputs), targets) / ACCUMULATION_STEPS
""")
_WHOLE = Template("""\
        for batch in itertools.islice(stream, ACCUMULATION_STEPS):
            with torch.autocast(device.type, dtype=$dtype, enabled=$autocast):
                part = loss(model, batch, device) / ACCUMULATION_STEPS
""")
_TEMPLATE = Template('''\
"""$docstring
"""

import itertools

import torch

MICRO_BATCH = $micro_batch  # images in each of your batches
ACCUMULATION_STEPS = $accumulation_steps  # effective batch $effective_batch$together
RATE_FACTOR = $factor
$checkpoint_blocks

def train(model, optimizer, loss, batches, updates, device="$device"):
    """Train on batches of MICRO_BATCH; the optimizer is the model's.

    $batch
    """
$guard$benchmark$checkpoint_call    device = torch.device(device)
    for group in optimizer.param_groups:
        group["lr"] *= RATE_FACTOR
    scaler = torch.amp.GradScaler(device.type, enabled=$scaler)
    stream = iter(batches)
    losses = []
    for _ in range(updates):
        total = torch.zeros((), device=device)
$micro_batch_loss            scaler.scale(part).backward()
            total += part.detach()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    return [total.item() for total in losses]
''')


def fill(
    variant: Variant,
    plan: TrainingPlan,
    *,
    docstring: str,
    target: Target,
    device_kind: DeviceKind,
    checkpointed: Sequence[Checkpointed],
) -> str:
    """Return the snippet of a plan with user-supplied parts.

    Args:
        variant: The variant to train.
        plan: Its plan.
        docstring: The docstring of the snippet: a title and the answer.
        target: The recipe that the learning rate was scaled from.
        device_kind: The kind of device that the run was made on.
        checkpointed: The modules that are recomputed; empty if not known.
    """
    common = settings(variant, plan, device_kind)
    is_whole = variant.own.batches is not None and variant.own.loss is None
    return _TEMPLATE.substitute(
        docstring=docstring,
        together=_TOGETHER.format(plan.processes, _how(plan, checkpointed))
        if plan.processes > 1
        else "",
        checkpoint_blocks=checkpoints.definition(variant, checkpointed),
        checkpoint_call=checkpoints.call(checkpointed) if plan.processes == 1 else "",
        factor=_factor(variant, plan, target),
        batch=_WHOLE_BATCH if is_whole else _PAIR,
        micro_batch_loss=(_WHOLE if is_whole else _PARTS).substitute(common),
        guard="" if recipe_of(variant, target).base_batch else _GUARD,
        **common,
    )


def _factor(variant: Variant, plan: TrainingPlan, target: Target) -> str:
    """The factor for the learning rates as Python, with a comment."""
    base_batch, rule = recipe_of(variant, target).base_batch, plan.lr_rule
    if base_batch is None:
        factor = f"{plan.rate_formula}".removeprefix("lr * ")
        return f"None  # set it: {factor}, by the {rule} rule"
    factor = f"{rate_factor(base_batch, plan.effective_batch, LearningRateRule(rule)):.6g}"
    return f"{factor}  # {rule} rule: of the learning rates that you train batch {base_batch} with"


def _how(plan: TrainingPlan, checkpointed: Sequence[Checkpointed]) -> str:
    """Comments on the arguments of DistributedDataParallel."""
    before = "\n# Before that, call checkpoint_blocks with the network." if checkpointed else ""
    return before + "".join(
        f"\n# Give DistributedDataParallel {each}." for each in plan.ddp.arguments
    )
