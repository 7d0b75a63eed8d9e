"""The recommendation as Python for a training script."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from bsprobe.analysis.recommendation import WARMUP_SHARE, recipe_of
from bsprobe.records.checkpointing import Checkpointed
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import Recommendation, Run, Target, TrainingPlan
from bsprobe.records.trials import Source
from bsprobe.records.variants import (
    LossAt,
    OptimizerName,
    Variant,
    labels,
)
from bsprobe.records.workload import HUGGING_FACE, Problem
from bsprobe.report.snippet import checkpoints
from bsprobe.report.snippet import own as own_snippet
from bsprobe.report.snippet.processes import micro_step, pieces
from bsprobe.report.snippet.settings import settings

_POLY_POWER = 0.9
_OPTIMIZERS = {
    OptimizerName.SGD: "torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9)",
    OptimizerName.ADAMW: "torch.optim.AdamW(groups, lr=LEARNING_RATE)",
}
_DECAYS = {OptimizerName.SGD: "5e-4", OptimizerName.ADAMW: "1e-2"}

_THREE_GROUPS = '''\
CLASSIFIER = "layer5."  # prefix of the names of your classifier's parameters


def parameter_groups(model):
    """Backbone 1x, classifier weights 10x, classifier biases 20x without weight decay."""
    backbone, weights, biases = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if not name.startswith(CLASSIFIER):
            backbone.append(parameter)
        elif name.endswith("bias"):
            biases.append(parameter)
        else:
            weights.append(parameter)
    return [
        {"params": backbone, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": weights, "lr": 10 * LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": biases, "lr": 20 * LEARNING_RATE, "weight_decay": 0.0},
    ]
'''
_ONE_GROUP = '''\
def parameter_groups(model):
    """One group of all parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [{"params": parameters, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY}]
'''

_LOSSES = {
    LossAt.LABELS: """\
                logits = logits_of(model(images), labels.shape[1:])
                loss = $loss / valid
""",
    LossAt.LOGITS: """\
                logits = logits_of(model(images))
                few = thin_out(labels, logits.shape[2:])
                loss = $loss / valid
                loss = loss * labels[0].numel() / few[0].numel()  # a label counts for its cell
""",
}
_LOGITS = {
    LossAt.LABELS: '''\
def logits_of(outputs, size):
    """The main logits of a network, at the size of the labels."""
    logits = $outputs
    return F.interpolate(logits, size=size, mode="$mode", align_corners=False)''',
    LossAt.LOGITS: '''\
def logits_of(outputs):
    """The main logits of a network, at their own size."""
    return $outputs


def thin_out(labels, size):
    """Labels at the size of the logits: the middle label of each cell."""
    grid = []
    for count, whole in zip(reversed(size), reversed(labels.shape[1:])):
        middles = ((torch.arange(count, device=labels.device) + 0.5) * (whole / count)).long()
        grid.insert(0, middles.reshape(-1, *[1] * len(grid)))
    return labels[(slice(None), *grid)]''',
}
_CLASSIFIER_LOGITS = '''\
def logits_of(outputs, _):
    """The logits of a classifier, which have no size."""
    return $outputs'''
_OUTPUTS = 'outputs["out"] if isinstance(outputs, dict) else outputs'
_NAMED_OUTPUTS = "outputs.logits"
"""The logits of networks from transformers."""
_CROSS_ENTROPY = 'F.cross_entropy(logits, $labels, ignore_index=IGNORE, reduction="sum")'
_BINARY = """F.binary_cross_entropy_with_logits(
                    logits[:, 0],
                    ($labels == 1).float(),
                    weight=($labels != IGNORE).float(),
                    reduction="sum",
                )"""
_LABELS = {
    Problem.SEGMENTATION: "int64 train ids ($sides)",
    Problem.CLASSIFICATION: "an int64 class",
}
_IGNORE = {Problem.SEGMENTATION: 255, Problem.CLASSIFICATION: -100}
"""Cityscapes' train id of ignored pixels; PyTorch's default, which is no class."""

_TEMPLATE = Template('''\
"""$docstring
$start"""

${imports}from torch.nn import functional as F
$loader_imports
MICRO_BATCH = $micro_batch
ACCUMULATION_STEPS = $accumulation_steps  # effective batch $effective_batch
${processes}LEARNING_RATE = $learning_rate
WEIGHT_DECAY = $weight_decay
UPDATES = $updates
WARMUP_UPDATES = $warmup_updates
IGNORE = $ignore

$parameter_groups$checkpoint_blocks

def schedule(update):
    """Linear warm-up, then poly with power $power; counts optimizer updates."""
    if update < WARMUP_UPDATES:
        return (update + 1) / WARMUP_UPDATES
    return max(0.0, 1 - update / UPDATES) ** $power


$logits


${epochs}def train(model, dataset, device="$device", updates=UPDATES, workers=$workers):
    """Train on (image, label) pairs: float ($channels, $sides) and $labels."""
$guard$benchmark$checkpoint_call$device_setup$convert    model = model.to(device$layout).train()
    groups = parameter_groups(model)
$replicate    optimizer = $optimizer
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    scaler = torch.amp.GradScaler(device.type, enabled=$scaler)
    loader = DataLoader(
        dataset,
        batch_size=MICRO_BATCH,
        $shuffle,
        drop_last=True,  # a last, smaller batch would give BatchNorm other statistics
        num_workers=workers,
        pin_memory=$pin_memory,
        persistent_workers=workers > 0,
$prefetch    )
    endless = $endless
    losses = []
    for _ in range(updates):
        micro_batches = list(itertools.islice(endless, ACCUMULATION_STEPS))
        # Divide by the valid pixels of the whole effective batch: a mean of the means of
        # micro-batches would weigh pixels unequally, and be NaN if one has no valid pixel.
        valid = max(1, sum(int((labels != IGNORE).sum()) for _, labels in micro_batches))
$share        total = torch.zeros((), device=device)
$micro_step        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
$note    return [loss.item() for loss in losses]
''')

_GUARD = """\
    if None in (LEARNING_RATE, UPDATES, WARMUP_UPDATES):
        raise SystemExit("set LEARNING_RATE, UPDATES and WARMUP_UPDATES: no recipe is known")
"""
_MICRO_STEP = Template("""\
            images = images.to(device, non_blocking=True$layout)
            labels = labels.to(device, non_blocking=True)
            with torch.autocast(device.type, dtype=$dtype, enabled=$autocast):
$loss            scaler.scale(loss).backward()
            total += loss.detach()
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """The arguments of the snippet's data loader, as Python."""

    workers: int = 4
    pin_memory: str = 'device.type == "cuda"'
    prefetch_factor: int | None = None
    """None: PyTorch's default."""


def render(run: Run, item: Recommendation) -> str:
    """Return the snippet of a recommendation.

    It depends only on torch. User-supplied losses, optimizers and batches are arguments of its
    `train`.
    """
    variant = item.variant
    name = labels(run.settings.variants)[variant]
    title = f"{variant.subject}, {name}: what bsprobe recommends."
    answer = (
        f"{run.device.source.capitalize()} on {run.device.name}: the largest batch that "
        f"{'ran' if run.device.source is Source.MEASURED else 'should run'} is {item.largest}."
    )
    target = recipe_of(variant, run.settings.target)
    checkpointed = checkpoints.parts_of(variant, run.trials)
    if variant.own.changes_the_step:
        return own_snippet.fill(
            variant,
            item.plan,
            docstring=f"{title}\n\n{answer}",
            target=target,
            device_kind=run.device.kind,
            checkpointed=checkpointed,
        )
    return fill(
        variant,
        item.plan,
        docstring=f"{title}\n\n{answer}",
        target=target,
        base_updates=str(run.settings.target.base_updates),
        device_kind=run.device.kind,
        loader=Loader(),
        checkpointed=checkpointed,
    )


def _rate(plan: TrainingPlan, target: Target) -> str:
    """The learning rate as Python, with a comment on its origin."""
    if plan.learning_rate is None:
        return f"None  # set it: {plan.rate_formula}, by the {plan.lr_rule} rule"
    origin = f"from {target.base_learning_rate:.6g} at batch {target.base_batch}"
    return f"{plan.learning_rate:.6g}  # {plan.lr_rule} rule {origin}"


def _schedule(plan: TrainingPlan, target: Target, base_updates: str) -> dict[str, str]:
    """The number of updates and of warm-up updates as Python."""
    if plan.schedule is None:
        share = f"about {WARMUP_SHARE:.0%} of UPDATES"
        return {
            "updates": "None  # set it: the optimizer updates of your training",
            "warmup_updates": f"None  # set it: {share} if the rate is scaled up, else 0",
        }
    updates, warmup = plan.schedule
    images = f"as many images as {base_updates} updates of {target.base_batch}"
    return {"updates": f"{updates}  # {images}", "warmup_updates": f"{warmup}"}


def _loss(variant: Variant) -> str:
    """The lines that compute the loss of a micro-batch."""
    labels = "few" if variant.loss_at is LossAt.LOGITS else "labels"
    loss = _BINARY if variant.classes == 1 else _CROSS_ENTROPY
    return Template(_LOSSES[variant.loss_at]).substitute(
        loss=Template(loss).substitute(labels=labels)
    )


def _logits(variant: Variant) -> str:
    """The function that takes the logits from the outputs of the network."""
    is_classifier = variant.problem is Problem.CLASSIFICATION
    text = _CLASSIFIER_LOGITS if is_classifier else _LOGITS[variant.loss_at]
    is_named = variant.model.startswith(HUGGING_FACE)
    outputs = _NAMED_OUTPUTS if is_named else "outputs" if is_classifier else _OUTPUTS
    mode = "bilinear" if variant.size.slices is None else "trilinear"
    return Template(text).substitute(outputs=outputs, mode=mode)


def fill(
    variant: Variant,
    plan: TrainingPlan,
    *,
    docstring: str,
    target: Target,
    base_updates: str,
    device_kind: DeviceKind,
    loader: Loader,
    checkpointed: Sequence[Checkpointed],
) -> str:
    """Return the snippet of a plan.

    Args:
        variant: The variant to train.
        plan: Its plan; with several learning rates the snippet has DeepLab's three groups.
        docstring: The docstring of the snippet: a title and the answer.
        target: The recipe that the learning rate was scaled from.
        base_updates: The updates of the recipe, for a comment.
        device_kind: The kind of device that the run was made on.
        loader: The arguments of the data loader.
        checkpointed: The modules that are recomputed; empty if not known.
    """
    common = settings(variant, plan, device_kind)
    problem = variant.problem
    three = len(plan.group_learning_rates) > 1
    parts = pieces(plan.processes, variant.norm, plan.ddp)
    sides = "H, W" if variant.size.slices is None else "D, H, W"
    body = _MICRO_STEP.substitute(common, loss=_loss(variant))
    prefetch = f"        prefetch_factor={loader.prefetch_factor} if workers else None,\n"
    return _TEMPLATE.substitute(
        docstring=docstring,
        learning_rate=_rate(plan, target),
        guard=_GUARD if plan.learning_rate is None else "",
        weight_decay=_DECAYS[variant.optimizer],
        **_schedule(plan, target, base_updates),
        parameter_groups=_THREE_GROUPS if three else _ONE_GROUP,
        ignore=_IGNORE[problem],
        labels=Template(_LABELS[problem]).substitute(sides=sides),
        channels=variant.channels,
        sides=sides,
        power=_POLY_POWER,
        logits=_logits(variant),
        optimizer=_OPTIMIZERS[variant.optimizer],
        micro_step=micro_step(body, plan.processes),
        workers=loader.workers,
        pin_memory=loader.pin_memory,
        checkpoint_blocks=checkpoints.definition(variant, checkpointed),
        checkpoint_call=checkpoints.call(checkpointed),
        prefetch=prefetch if loader.prefetch_factor else "",
        **common,
        **parts,
    )
