"""Sentences to read beside the numbers of a recommendation, only where they apply."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bsprobe.analysis.recommendation import Limits
from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import nccl_bytes
from bsprobe.records.runs import REFERENCE, DeviceInfo, Recommendation, Target
from bsprobe.records.trials import Ddp, ModelFacts, Source, Trial
from bsprobe.records.units import format_bytes
from bsprobe.records.variants import Checkpointing, Norm, Precision, Variant
from bsprobe.records.workload import has_recipe

ASSUMED: Final[Mapping[Assumption, str]] = {
    Assumption.NOT_COMPILED: (
        "Predicted as if not compiled: the memory that torch.compile's kernels take, or save, is "
        "not known."
    ),
    Assumption.LARGEST_SIZES: (
        "Predicted at the largest sizes: a size depends on the values of tensors (a boolean mask, "
        "nonzero), and the largest that it can have is taken. Real data takes as much or less."
    ),
    Assumption.LARGEST_BRANCH: (
        "Predicted along the largest branch: a condition depends on the values of tensors, both "
        "branches were traced, and the one that takes more memory is shown."
    ),
    Assumption.STILL_GROWING: (
        "Predicted while memory still grew: each traced step left more memory than the one before "
        "it. A training takes more than this."
    ),
}
"""The sentence that a reader must have on each assumption of a prediction."""
_RANGE_FROM = 3
"""So many batches, and more, are told as a range."""
_PRETRAINED_NORMS = (Norm.BATCH, Norm.SYNC_BATCH, Norm.FROZEN, Norm.AS_BUILT)


def caveats_of(
    item: Recommendation,
    *,
    found: Limits,
    trials: Sequence[Trial],
    target: Target,
    device: DeviceInfo,
) -> tuple[str, ...]:
    """Sentences that a reader of this row must know, and only those."""
    models = tuple(each.measurement.model for each in trials if each.measurement)
    batch_norms = next((m.batch_norms for m in models if m.batch_norms is not None), None)
    return tuple(
        sentence
        for sentence in (
            _failure_caveat(item),
            *notes_on_models(models),
            _target_caveat(item, target),
            *_norm_caveats(item, batch_norms),
            _checkpointing_caveat(item.variant, batch_norms),
            _autocast_caveat(item.variant, device),
            _rate_caveat(item.variant, target, batch_norms),
            _rule_caveat(item.variant, target),
            _headroom_caveat(item, found, target, device),
            _retry_caveat(trials),
            _nccl_caveat(item, device),
            *_data_sentences(item),
            _spill_caveat(device),
        )
        if sentence
    )


def _failure_caveat(item: Recommendation) -> str:
    if item.trial is None or item.trial.ran:
        return ""
    why = f": {item.trial.failure.words}" if item.trial.failure is not None else ""
    return (
        f"As recommended, {item.plan.micro_batch} x {item.plan.accumulation_steps}, it did not "
        f"run ({item.trial.outcome}){why}"
    )


def notes_on_models(models: Iterable[ModelFacts]) -> list[str]:
    """Sentences that a reader must have on a network, from the facts of some of its trials."""
    facts = tuple(models)
    made = dict.fromkeys(each for model in facts for each in model.assumptions)
    sentences = [ASSUMED[each] for each in made]
    return [*sentences, *filter(None, [_gradient_caveat(facts)])]


def _gradient_caveat(facts: Sequence[ModelFacts]) -> str:
    """The note on parameters that are trained by name alone: their memory is missing in all rows.

    PyTorch only warns where a reentrant checkpoint cuts the graph (`check_backward_validity` in
    torch/utils/checkpoint.py).
    """
    found = next((each for each in facts if each.parameters_without_gradient), None)
    if found is None:
        return ""
    count, first = found.parameters_without_gradient, found.first_without_gradient
    them, subject = (
        ("it", f"A trainable parameter gets no gradient: {first}.")
        if count == 1
        else ("them", f"{count} trainable parameters get no gradient, {first} first.")
    )
    return (
        f"{subject} Training would not change {them}, and no memory is counted for gradient and "
        "optimizer state. Inside torch.utils.checkpoint, pass use_reentrant=False; what no loss "
        "depends on is better removed or frozen (requires_grad=False)."
    )


def _target_caveat(item: Recommendation, target: Target) -> str:
    if item.reaches_target or target.batch is None:
        return ""
    if item.plan.ddp is Ddp.STATIC_GRAPH:
        return (
            f"An effective batch of {target.batch} needs accumulation, which PyTorch's "
            f"static_graph does not run with; --ddp {Ddp.FIND_UNUSED_PARAMETERS} does."
        )
    return (
        f"An effective batch of {target.batch} did not run with any accumulation: beside the "
        "accumulated gradients not even the smallest micro-batch fits."
    )


def _norm_caveats(item: Recommendation, batch_norms: int | None) -> list[str]:
    norm, plan = item.variant.norm, item.plan
    sentences = [_statistics_caveat(item, batch_norms)]
    if norm is Norm.SYNC_BATCH and batch_norms != 0:
        seen = plan.micro_batch * plan.processes
        sentence = (
            f"SyncBatchNorm statistics see the {seen} images of all {plan.processes} processes' "
            "micro-batches; accumulation does not change that."
        )
        sentences = [sentence]
    if norm not in _PRETRAINED_NORMS:
        sentences.append(
            f"A network with {norm} norm is another model than the one that BatchNorm weights "
            "were trained for: it must learn its normalisation anew."
        )
    return sentences


def _statistics_caveat(item: Recommendation, batch_norms: int | None) -> str:
    """The images that BatchNorm's statistics see; empty for a network that has none.

    Args:
        item: What is recommended.
        batch_norms: Its number of BatchNorm modules; None: not known.
    """
    micro, processes = item.plan.micro_batch, item.plan.processes
    keeps_its_norm = item.variant.norm is Norm.AS_BUILT
    one = "a micro-batch" if processes == 1 else "one process's micro-batch"
    if item.variant.norm not in (Norm.BATCH, Norm.AS_BUILT) or batch_norms == 0:
        return ""
    if keeps_its_norm and batch_norms is None:
        return (
            "The network keeps the norm it is built with. Where that is BatchNorm, its statistics "
            f"see the {micro} images of {one}, whatever the accumulation."
        )
    if micro == 1:
        others = "group or frozen" if processes == 1 else "sync-batch, group or frozen"
        return (
            "Micro-batch 1: BatchNorm normalises each image by itself, as InstanceNorm would, "
            "and accumulation does not change that"
            + ("." if keeps_its_norm else f"; consider {others}.")
        )
    return f"BatchNorm statistics see the {micro} images of {one}" + (
        "; accumulation does not change that." if item.plan.accumulation_steps > 1 else "."
    )


def _autocast_caveat(variant: Variant, device: DeviceInfo) -> str:
    is_affected = variant.norm is Norm.GROUP and variant.precision is not Precision.FP32
    if not is_affected or device.kind is DeviceKind.CPU:
        return ""
    return (
        "Autocast runs GroupNorm in fp32 and keeps fp32 copies beside those in half precision; "
        "group-amp keeps half precision alone."
    )


def _checkpointing_caveat(variant: Variant, batch_norms: int | None) -> str:
    """The note on statistics that a block's second forward pass updates again.

    torch.utils.checkpoint runs the whole block again, in training mode.
    """
    if variant.checkpointing is Checkpointing.OFF or batch_norms == 0:
        return ""
    if variant.norm not in (Norm.BATCH, Norm.SYNC_BATCH, Norm.AS_BUILT):
        return ""
    is_unknown = variant.norm is Norm.AS_BUILT and batch_norms is None
    blocks = "Any recomputed blocks" if is_unknown else "Recomputed blocks"
    return (
        f"{blocks} with BatchNorm update its running statistics twice a step, by the same batch: "
        "a momentum of 0.1 acts as one of 0.19. Gradients are the same."
    )


def _rate_caveat(variant: Variant, target: Target, batch_norms: int | None) -> str:
    is_its_own = variant.own.optimizer is not None  # and its rate with it: a factor is shown
    is_given = target.base_learning_rate != REFERENCE.base_learning_rate
    is_given = is_given or not has_recipe(variant.model)
    if variant.norm is Norm.FROZEN or batch_norms == 0 or is_given or is_its_own:
        return ""
    return (
        "The reference rate 2.5e-04 stems from a recipe whose BatchNorm was frozen; "
        "take it as a starting point."
    )


def _rule_caveat(variant: Variant, target: Target) -> str:
    if variant.own.optimizer is None or target.lr_rule is not None:
        return ""
    return (
        f"What optimizer {variant.own.optimizer} makes is not asked: LR is a factor for the rates "
        "that it has at the reference batch, by the linear rule, SGD's; for Adam's kind choose the "
        "sqrt rule."
    )


def _headroom_caveat(
    item: Recommendation, found: Limits, target: Target, device: DeviceInfo
) -> str:
    if not found.keeps_headroom:
        return (
            f"Not even batch {item.safe} leaves {target.headroom:.0%} of the memory free: "
            "an evaluation or a larger image can run out."
        )
    measured = item.trial.measurement if item.trial is not None else None
    if measured is None or measured.peak_bytes <= target.budget_bytes(device.capacity_bytes):
        return ""
    return (
        f"With its accumulated gradients the recommended step takes "
        f"{measured.peak_bytes / device.capacity_bytes:.1%} of the memory, which leaves less than "
        f"the {target.headroom:.0%} that was asked for."
    )


def _retry_caveat(trials: Sequence[Trial]) -> str:
    retried = {t.spec.batch_size for t in trials if t.outcome is Outcome.FITS_WITH_RETRIES}
    if not retried:
        return ""
    batches = ("Batch " if len(retried) == 1 else "Batches ") + _numbers(sorted(retried))
    return (
        f"{batches} ran only after the allocator had emptied its cache "
        "and tried again, which is slow: stay below."
    )


def _numbers(found: Sequence[int]) -> str:
    """Ascending numbers in few words: `3`, `3 and 5`, `3 to 5`, `3 to 9 (4 of them)`."""
    low, high = found[0], found[-1]
    if len(found) < _RANGE_FROM:
        return " and ".join(map(str, found))
    of_them = f" ({len(found)} of them)" if len(found) <= high - low else ""
    return f"{low} to {high}{of_them}"


def _nccl_caveat(item: Recommendation, device: DeviceInfo) -> str:
    processes = item.plan.processes
    if processes == 1 or device.source is not Source.PREDICTED:
        return ""
    return (
        f"Predicted with an estimated {format_bytes(nccl_bytes(processes))} for NCCL, which is "
        "what A100s over NVLink took; slower links take less."
    )


def _data_sentences(item: Recommendation) -> list[str]:
    """The change that real images made: in the rate at which they come, and in memory."""
    real = item.trial.measurement if item.trial is not None else None
    if real is None or real.loader_images_per_second is None or not real.images_per_second:
        return []
    keeps_up = real.loader_images_per_second >= real.images_per_second
    sentences = [
        f"The data loader delivers {real.loader_images_per_second:.3g} images/s, the step takes "
        f"{real.images_per_second:.3g}: "
        + ("it keeps up." if keeps_up else "training will wait for it.")
    ]
    synthetic = item.synthetic_trial.measurement if item.synthetic_trial is not None else None
    if synthetic is not None:
        change = real.peak_bytes / synthetic.peak_bytes - 1
        sentences.append(
            f"Peak memory with real images is {format_bytes(real.peak_bytes)}, with synthetic "
            f"ones {format_bytes(synthetic.peak_bytes)} ({change:+.1%})."
        )
    return sentences


def _spill_caveat(device: DeviceInfo) -> str:
    if device.kind is not DeviceKind.CUDA or not any("Windows" in note for note in device.notes):
        return ""
    return (
        "On Windows and WSL the driver moves memory to the host instead of failing: a collapse "
        "of images/s, not an error, then marks the end of the GPU's memory."
    )
