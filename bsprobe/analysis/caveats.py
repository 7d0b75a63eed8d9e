"""Notes beside the numbers of a recommendation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from bsprobe.analysis.growth import MOST_STEPS
from bsprobe.analysis.notes import Note
from bsprobe.analysis.recommendation import Limits
from bsprobe.analysis.script_facts import notes_on_rates
from bsprobe.records.assumptions import Assumption
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.gpus import nccl_bytes
from bsprobe.records.runs import REFERENCE, DeviceInfo, Recommendation, Target
from bsprobe.records.scripts import ACCUMULATION
from bsprobe.records.trials import Ddp, ModelFacts, Source, Trial
from bsprobe.records.units import format_bytes, format_rate
from bsprobe.records.variants import Checkpointing, Norm, Precision, Variant

ASSUMED: Final[Mapping[Assumption, str]] = {
    Assumption.NOT_COMPILED: (
        "Predicted as if not compiled: the kernels of torch.compile may take more or less memory."
    ),
    Assumption.LARGEST_SIZES: (
        "Some tensor sizes depend on values (a boolean mask, nonzero): the largest possible size "
        "is assumed. Real data takes as much or less."
    ),
    Assumption.LARGEST_BRANCH: (
        "A branch depends on the values of tensors: both branches were traced, and the one that "
        "takes more memory is shown."
    ),
    Assumption.STILL_GROWING: (
        f"Memory grows in every one of the {MOST_STEPS} steps that were traced. Figures are of the "
        "last of them; later steps take more. bsprobe run states by how much."
    ),
}
"""The sentence on each assumption of a prediction."""
_GROWTH: Final = ASSUMED[Assumption.STILL_GROWING]
_RANGE_FROM = 3
"""This many consecutive batches, and more, are written as a range."""
_MOST_LISTED = 4
_PRETRAINED_NORMS = (Norm.BATCH, Norm.SYNC_BATCH, Norm.FROZEN, Norm.AS_BUILT)


def caveats_of(
    item: Recommendation,
    *,
    found: Limits,
    trials: Sequence[Trial],
    target: Target,
    device: DeviceInfo,
) -> tuple[str, ...]:
    """Return the notes on a recommendation as sentences.

    Args:
        item: The recommendation.
        found: The batch sizes that it is derived from.
        trials: The trials of its variant that ran without accumulation.
        target: The recipe to scale from, as `recipe_of` fills it.
        device: The device of the trials.
    """
    keeps = found.keeps_headroom
    notes = notes_of(item, keeps_headroom=keeps, trials=trials, target=target, device=device)
    return tuple(map(str, notes))


def notes_of(
    item: Recommendation,
    *,
    keeps_headroom: bool,
    trials: Sequence[Trial],
    target: Target,
    device: DeviceInfo,
) -> list[Note]:
    """Return the notes on a recommendation.

    Args:
        item: The recommendation.
        keeps_headroom: True if its safe batch leaves the headroom free.
        trials: The trials of its variant that ran without accumulation.
        target: The recipe to scale from, as `recipe_of` fills it.
        device: The device of the trials.
    """
    models = tuple(each.measurement.model for each in trials if each.measurement)
    found = (
        _failure_note(item),
        *(Note(text=text) for text in notes_on_models(models) if text != _GROWTH),  # stated apart
        _target_note(item, target),
        *(_network_notes(item, target, device, models) if item.variant.axes else ()),
        *notes_on_rates(trials),
        _headroom_note(item, target, device, keeps_headroom=keeps_headroom),
        _retry_note(trials),
        _nccl_note(item, device),
        *_data_notes(item),
        _spill_note(device),
    )
    return [note for note in found if note is not None]


def _network_notes(
    item: Recommendation, target: Target, device: DeviceInfo, models: Sequence[ModelFacts]
) -> list[Note | None]:
    """Notes on the settings of a network, which are not known of a user's command."""
    batch_norms = next((m.batch_norms for m in models if m.batch_norms is not None), None)
    return [
        *_norm_notes(item, batch_norms),
        _checkpointing_note(item.variant, batch_norms),
        _autocast_note(item.variant, device),
        _rate_note(item.variant, target, batch_norms),
        _rule_note(item.variant, target),
    ]


def _failure_note(item: Recommendation) -> Note | None:
    if item.trial is None or item.trial.ran:
        return None
    why = f": {item.trial.failure.words}" if item.trial.failure is not None else ""
    return Note(
        text=(
            f"The recommended step, {item.plan.micro_batch} x {item.plan.accumulation_steps}, did "
            f"not run ({item.trial.outcome}){why}"
        )
    )


def notes_on_models(models: Iterable[ModelFacts]) -> list[str]:
    """Return the sentences on a network, from the facts of some of its trials."""
    facts = tuple(models)
    made = dict.fromkeys(each for model in facts for each in model.assumptions)
    sentences = [ASSUMED[each] for each in made]
    return [*sentences, *filter(None, [_gradient_sentence(facts)])]


def _gradient_sentence(facts: Sequence[ModelFacts]) -> str:
    """The sentence on trainable parameters without a gradient; empty if there are none.

    PyTorch only warns if a reentrant checkpoint cuts the graph (`check_backward_validity` in
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
        f"{subject} Training would not change {them}, and the memory of gradient and optimizer "
        f"state is not counted for {them}. Inside torch.utils.checkpoint, pass "
        "use_reentrant=False; remove or freeze (requires_grad=False) parameters that the loss "
        "does not depend on."
    )


def _target_note(item: Recommendation, target: Target) -> Note | None:
    if item.reaches_target or target.batch is None:
        return None
    script = item.variant.script
    if script is not None and not script.accumulates:
        return Note(
            text=(
                f"An effective batch of {target.batch} needs accumulation, and the command does "
                f"not take it: put {ACCUMULATION} where the accumulation steps belong."
            )
        )
    if item.plan.ddp is Ddp.STATIC_GRAPH:
        return Note(
            text=(
                f"An effective batch of {target.batch} needs accumulation, which PyTorch's "
                f"static_graph does not support; --ddp {Ddp.FIND_UNUSED_PARAMETERS} does."
            )
        )
    return Note(
        text=(
            f"An effective batch of {target.batch} did not run with any accumulation: with the "
            "accumulated gradients not even the smallest micro-batch fits."
        )
    )


def _norm_notes(item: Recommendation, batch_norms: int | None) -> list[Note | None]:
    norm, plan = item.variant.norm, item.plan
    notes = [_statistics_note(item, batch_norms)]
    if norm is Norm.SYNC_BATCH and batch_norms != 0:
        text = (
            f"SyncBatchNorm normalises over the micro-batches of all {plan.processes} processes: "
            "{}; accumulation does not change that."
        )
        seen = plan.micro_batch * plan.processes
        notes = [Note(text=text, figure=f"{seen}", unit=" images", is_general=True)]
    if norm not in _PRETRAINED_NORMS:
        name = Norm.GROUP if norm is Norm.GROUP_AMP else norm
        text = f"Weights trained with BatchNorm do not fit {name} norm."
        notes.append(Note(text=text, is_general=True))
    return notes


def _statistics_note(item: Recommendation, batch_norms: int | None) -> Note | None:
    """The note on the images that BatchNorm normalises over.

    Args:
        item: The recommendation.
        batch_norms: The number of BatchNorm modules of the network; None: not known.
    """
    micro, processes = item.plan.micro_batch, item.plan.processes
    keeps_its_norm = item.variant.norm is Norm.AS_BUILT
    one = "the micro-batch" if processes == 1 else "the micro-batch of one process"
    if item.variant.norm not in (Norm.BATCH, Norm.AS_BUILT) or batch_norms == 0:
        return None
    if keeps_its_norm and batch_norms is None:
        return Note(
            text=(
                "The network keeps the norm that it is built with. BatchNorm would normalise over "
                f"{one} alone: {{}}; accumulation does not change that."
            ),
            figure=f"{micro}",
            unit=" image" if micro == 1 else " images",
        )
    if micro == 1:
        others = "group or frozen" if processes == 1 else "sync-batch, group or frozen"
        return Note(
            text=(
                "At micro-batch 1, BatchNorm normalises each image alone, as InstanceNorm does; "
                "accumulation does not change that"
                + ("." if keeps_its_norm else f". Consider --norm {others}.")
            )
        )
    return Note(
        text=f"BatchNorm normalises over {one} alone: {{}}; accumulation does not change that.",
        figure=f"{micro}",
        unit=" images",
        is_general=True,
    )


def _autocast_note(variant: Variant, device: DeviceInfo) -> Note | None:
    is_affected = variant.norm is Norm.GROUP and variant.precision is not Precision.FP32
    if not is_affected or device.kind is DeviceKind.CPU:
        return None
    return Note(
        text=(
            "Autocast runs GroupNorm in fp32 and keeps fp32 copies beside those in half "
            "precision; --norm group-amp keeps half precision alone."
        ),
        is_general=True,
    )


def _checkpointing_note(variant: Variant, batch_norms: int | None) -> Note | None:
    """The note on running statistics that a block's second forward pass updates again.

    torch.utils.checkpoint runs the whole block again, in training mode.
    """
    if variant.checkpointing is Checkpointing.OFF or batch_norms == 0:
        return None
    if variant.norm not in (Norm.BATCH, Norm.SYNC_BATCH, Norm.AS_BUILT):
        return None
    is_unknown = variant.norm is Norm.AS_BUILT and batch_norms is None
    blocks = "Any recomputed blocks" if is_unknown else "Recomputed blocks"
    return Note(
        text=(
            f"{blocks} with BatchNorm update its running statistics twice a step, from the same "
            "batch: a momentum of 0.1 acts as one of 0.19. Gradients are the same."
        ),
        is_general=True,
    )


def _rate_note(variant: Variant, target: Target, batch_norms: int | None) -> Note | None:
    is_its_own = variant.own.optimizer is not None  # its rate is not known: a factor is shown
    is_given = target.base_learning_rate != REFERENCE.base_learning_rate
    is_given = is_given or not variant.has_recipe
    if variant.norm is Norm.FROZEN or batch_norms == 0 or is_given or is_its_own:
        return None
    return Note(
        text=(
            f"The rate {REFERENCE.base_learning_rate:.1e} comes from a recipe with frozen "
            "BatchNorm; take it as a starting point."
        ),
        is_general=True,
    )


def _rule_note(variant: Variant, target: Target) -> Note | None:
    if variant.own.optimizer is None or target.lr_rule is not None:
        return None
    return Note(
        text=(
            f"LR is a factor for the rates that {variant.own.optimizer} sets, by the linear rule, "
            "which is for SGD; for Adam and its variants pass --lr-rule sqrt."
        )
    )


def _headroom_note(
    item: Recommendation, target: Target, device: DeviceInfo, *, keeps_headroom: bool
) -> Note | None:
    if not keeps_headroom:
        return Note(
            text=(
                f"Not even {{}} leaves {target.headroom:.0%} of the memory free: an evaluation or "
                "a larger image may run out of memory."
            ),
            figure=f"batch {item.safe}",
        )
    measured = item.trial.measurement if item.trial is not None else None
    if measured is None or measured.peak_bytes <= target.budget_bytes(device.capacity_bytes):
        return None
    return Note(
        text=(
            "With accumulated gradients the recommended step takes {} of the memory, which leaves "
            f"less than the {target.headroom:.0%} that --headroom asks for."
        ),
        figure=f"{measured.peak_bytes / device.capacity_bytes:.1%}",
    )


def _retry_note(trials: Sequence[Trial]) -> Note | None:
    retried = {t.spec.batch_size for t in trials if t.outcome is Outcome.FITS_WITH_RETRIES}
    if not retried:
        return None
    batches = ("batch " if len(retried) == 1 else "batches ") + _numbers(sorted(retried))
    return Note(
        text="With {} the allocator empties its cache and retries, which is slow: stay below.",
        figure=batches,
    )


def _numbers(found: Sequence[int]) -> str:
    """Ascending numbers in few words: `3`, `3 and 5`, `3 to 5`, `3, 5 and 6`."""
    low, high = found[0], found[-1]
    if len(found) < _RANGE_FROM:
        return " and ".join(map(str, found))
    if len(found) == high - low + 1:
        return f"{low} to {high}"
    if len(found) <= _MOST_LISTED:
        return f"{', '.join(map(str, found[:-1]))} and {high}"
    return f"{low} to {high} ({len(found)} of them)"


def _nccl_note(item: Recommendation, device: DeviceInfo) -> Note | None:
    processes = item.plan.processes
    if processes == 1 or device.source is not Source.PREDICTED:
        return None
    return Note(
        text=(
            f"Predicted with an estimated {format_bytes(nccl_bytes(processes))} for NCCL, as on "
            "A100s over NVLink; slower links take less."
        )
    )


def _data_notes(item: Recommendation) -> list[Note]:
    """Notes on the speed of the data loader and on the memory with real images."""
    real = item.trial.measurement if item.trial is not None else None
    if real is None or real.loader_images_per_second is None or not real.images_per_second:
        return []
    keeps_up = real.loader_images_per_second >= real.images_per_second
    notes = [
        Note(
            text=(
                "The data loader keeps up: it delivers {}."
                if keeps_up
                else "Training waits for the data loader, which delivers {}."
            ),
            figure=(
                f"{format_rate(real.loader_images_per_second)} images/s for a step that takes "
                f"{format_rate(real.images_per_second)}"
            ),
        )
    ]
    synthetic = item.synthetic_trial.measurement if item.synthetic_trial is not None else None
    if synthetic is not None:
        change = real.peak_bytes / synthetic.peak_bytes - 1
        figure = (
            f"{format_bytes(real.peak_bytes)} against {format_bytes(synthetic.peak_bytes)} "
            f"({change:+.1%})"
        )
        notes.append(
            Note(text="Peak memory with real against synthetic images: {}.", figure=figure)
        )
    return notes


def _spill_note(device: DeviceInfo) -> Note | None:
    if device.kind is not DeviceKind.CUDA or not any("Windows" in note for note in device.notes):
        return None
    return Note(
        text=(
            "On Windows and WSL the driver moves memory to the host instead of failing: the GPU's "
            "memory is full once images/s collapse, without an error."
        )
    )
