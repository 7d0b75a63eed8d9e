"""The recommendation as Python for a training script: the names of `training.py.jinja`."""

from dataclasses import dataclass
from functools import cache

from jinja2 import PackageLoader, Template

from bsprobe.analysis.rates import rate_factor
from bsprobe.analysis.recommendation import WARMUP_SHARE, recipe_of
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.runs import Recommendation, Run, Target, TrainingPlan
from bsprobe.records.trials import ModelFacts, Source
from bsprobe.records.variants import (
    CudnnBenchmark,
    MemoryFormat,
    Norm,
    OptimizerName,
    Precision,
    Variant,
    labels,
)
from bsprobe.records.workload import Problem
from bsprobe.report.snippet import checkpointing, losses
from bsprobe.report.snippet.literals import comment, literal, rounded, templates

_POLY_POWER = 0.9
_OPTIMIZERS = {
    OptimizerName.SGD: "torch.optim.SGD(groups, lr=LEARNING_RATE, momentum=0.9)",
    OptimizerName.ADAMW: "torch.optim.AdamW(groups, lr=LEARNING_RATE)",
}
_DECAYS = {OptimizerName.SGD: "5e-4", OptimizerName.ADAMW: "1e-2"}
_DTYPES = {Precision.AMP_FP16: "torch.float16", Precision.AMP_BF16: "torch.bfloat16"}
_OPEN = ("LEARNING_RATE", "UPDATES", "WARMUP_UPDATES")
_LABELS = {
    Problem.SEGMENTATION: "int64 train ids ({})",
    Problem.CLASSIFICATION: "an int64 class",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """The arguments of the snippet's data loader."""

    workers: int = 4
    pin_memory: bool | None = None
    """None: on a GPU."""
    prefetch_factor: int | None = None
    """None: PyTorch's default."""


def render(run: Run, item: Recommendation) -> str:
    """Return the snippet of a recommendation.

    It depends only on torch. User-supplied losses, optimizers and batches are arguments of its
    `train`.
    """
    variant = item.variant
    name = labels(run.settings.variants)[variant]
    made = run.device.source.capitalize()
    did_run = "ran" if run.device.source is Source.MEASURED else "should run"
    measured = (each.measurement for each in run.trials if each.spec.variant == variant)
    return fill(
        variant,
        item.plan,
        paragraphs=(
            f"{variant.subject}, {name}: what bsprobe recommends.",
            f"{made} on {run.device.name}: the largest batch that {did_run} is {item.largest}.",
        ),
        target=recipe_of(variant, run.settings.target),
        base_updates=str(run.settings.target.base_updates),
        device_kind=run.device.kind,
        loader=Loader(),
        facts=next((each.model for each in measured if each is not None), None),
    )


def fill(
    variant: Variant,
    plan: TrainingPlan,
    *,
    paragraphs: tuple[str, ...],
    target: Target,
    base_updates: str,
    device_kind: DeviceKind,
    loader: Loader,
    facts: ModelFacts | None,
) -> str:
    """Return the snippet of a plan.

    Args:
        variant: The variant to train.
        plan: Its plan; with several learning rates the snippet has DeepLab's three groups.
        paragraphs: The paragraphs of the snippet's docstring: a title and the answer.
        target: The recipe that the learning rate was scaled from.
        base_updates: The updates of the recipe, for a comment.
        device_kind: The kind of device that the run was made on.
        loader: The arguments of the data loader.
        facts: The facts of the trials' network; None if no trial of the variant ran.
    """
    form = None if facts is None else facts.batch_form
    return _template().render(
        plan=plan,
        paragraphs=paragraphs,
        loader=loader,
        arguments=_arguments(variant, device_kind, loader),
        **_optimizer_names(variant, plan, target, base_updates),
        **_device_names(variant, plan),
        **_batch_names(variant, plan),
        **losses.names(variant, form),
        **checkpointing.names(variant, () if facts is None else facts.checkpointed),
    )


@cache
def _template() -> Template:
    loader = PackageLoader("bsprobe.report.snippet", package_path="")
    return templates(loader).get_template("training.py.jinja")


def _arguments(variant: Variant, device_kind: DeviceKind, loader: Loader) -> str:
    """The arguments of `train`: first the user-supplied parts."""
    own = variant.own
    device = "cpu" if device_kind is DeviceKind.CPU else "cuda"
    chosen = {
        "model": True,
        "optimizer": own.optimizer is not None,
        "loss": own.own_loss is not None,
        "batches": own.batches is not None,
        "dataset": own.batches is None,
        "updates": own.optimizer is not None,
        f'device="{device}"': True,
        "updates=None": own.optimizer is None,
        f"workers={literal(loader.workers)}": own.batches is None,
    }
    return ", ".join(name for name, is_there in chosen.items() if is_there)


def _optimizer_names(
    variant: Variant, plan: TrainingPlan, target: Target, base_updates: str
) -> dict[str, object]:
    """The names for the optimizer, its rates and their schedule."""
    if variant.own.optimizer is not None:
        is_open = target.base_batch is None
        return {
            "own_optimizer": True,
            "factor": _factor(plan, target),
            "unknown": ("RATE_FACTOR",) if is_open else (),
            "why_unknown": "it depends on the batch that your rates belong to",
        }
    return {
        "own_optimizer": False,
        "optimizer": _OPTIMIZERS[variant.optimizer],
        "weight_decay": _DECAYS[variant.optimizer],
        "rate": _rate(plan, target),
        "three_groups": len(plan.group_learning_rates) > 1,
        "power": _POLY_POWER,
        **_schedule(plan, target, base_updates),
        "unknown": _OPEN if plan.learning_rate is None else (),
        "why_unknown": "no recipe is known",
    }


def _factor(plan: TrainingPlan, target: Target) -> str:
    """The factor for the rates of a user-supplied optimizer as Python, with a comment."""
    base_batch, rule = target.base_batch, plan.lr_rule
    if base_batch is None:
        factor = f"{plan.rate_formula}".removeprefix("lr * ")
        return f"None  # {comment(f'set it: {factor}, by the {rule} rule')}"
    factor = rounded(rate_factor(base_batch, plan.effective_batch, rule))
    return f"{factor}  # {rule} rule: of the learning rates that you train batch {base_batch} with"


def _rate(plan: TrainingPlan, target: Target) -> str:
    """The learning rate as Python, with a comment on its origin."""
    if plan.learning_rate is None:
        said = f"set it: {plan.rate_formula}, by the {plan.lr_rule} rule"
        return f"None  # {comment(said)}"
    origin = f"from {target.base_learning_rate:.6g} at batch {target.base_batch}"
    return f"{rounded(plan.learning_rate)}  # {plan.lr_rule} rule {origin}"


def _schedule(plan: TrainingPlan, target: Target, base_updates: str) -> dict[str, str]:
    """The number of updates and of warm-up updates as Python."""
    if plan.schedule is None:
        share = f"about {WARMUP_SHARE:.0%} of UPDATES"
        return {
            "updates": "None  # set it: the optimizer updates of your training",
            "warmup_updates": f"None  # set it: {share} if the rate is scaled up, else 0",
        }
    updates, warmup = plan.schedule
    images = comment(f"as many images as {base_updates} updates of {target.base_batch}")
    return {"updates": f"{literal(updates)}  # {images}", "warmup_updates": literal(warmup)}


def _device_names(variant: Variant, plan: TrainingPlan) -> dict[str, object]:
    """The names for processes, precision and memory layout."""
    is_nhwc = variant.memory_format is MemoryFormat.NHWC
    is_volume = variant.resolution is not None and variant.resolution.slices is not None
    last = "channels_last_3d" if is_volume else "channels_last"
    return {
        "many": plan.processes > 1,
        "shares_statistics": variant.norm is Norm.SYNC_BATCH,
        "is_nhwc": is_nhwc,
        "layout": f", memory_format=torch.{last}" if is_nhwc else "",
        "benchmark": variant.cudnn_benchmark is CudnnBenchmark.ON,
        "scaler": variant.precision is Precision.AMP_FP16,
        "dtype": _DTYPES.get(variant.precision, "torch.bfloat16"),
        "autocast": variant.precision is not Precision.FP32,
    }


def _batch_names(variant: Variant, plan: TrainingPlan) -> dict[str, str]:
    """The names for what `train` reads."""
    if variant.own.batches is not None:
        own = "batches: a DataLoader, a list or another iterable, but no iterator"
        return {
            "loader_names": "DistributedSampler",
            "trains_on": own,
            "no_batches": "the batches are over: give a DataLoader or a list, not an iterator",
            "no_valid_batches": "no more batches with a valid target: give a DataLoader or a list",
        }
    sides = "H, W" if variant.size.slices is None else "D, H, W"
    wanted = "what your loss takes"
    if variant.own.own_loss is None:
        wanted = _LABELS[variant.problem].format(sides)
    return {
        "loader_names": "DataLoader" + (", DistributedSampler" if plan.processes > 1 else ""),
        "trains_on": f"(image, label) pairs: float ({variant.channels}, {sides}) and {wanted}",
        "no_batches": "the data set has fewer images than MICRO_BATCH",
        "no_valid_batches": "no valid target, or fewer images than MICRO_BATCH, in the data set",
    }
