"""Sentences on a run, for terminal and markdown."""

import statistics
from collections.abc import Sequence

from bsprobe.analysis.rates import rate_factor
from bsprobe.analysis.recommendation import recipe_of
from bsprobe.records.failures import Outcome
from bsprobe.records.growth import Growth
from bsprobe.records.runs import (
    Boundary,
    DeviceInfo,
    Prediction,
    Recommendation,
    Run,
    Settings,
    StopReason,
    Target,
    TrainingPlan,
    VariantResult,
)
from bsprobe.records.trials import Measurement, Purpose, Source, Trial
from bsprobe.records.units import format_bytes, format_rate
from bsprobe.records.variants import (
    OptimizerName,
    Precision,
    Variant,
    labels,
    shared_settings,
)
from bsprobe.report.run import script

_OUTCOME_WORDS = {Outcome.FITS: "ok", Outcome.FITS_WITH_RETRIES: "ok with retries"}
_OPTIMIZER_NAMES = {OptimizerName.SGD: "SGD", OptimizerName.ADAMW: "AdamW"}


def row_names(variants: Sequence[Variant]) -> dict[Variant, str]:
    """Return labels for rows below `subject_line`, which names the settings that all share."""
    return labels(variants, without=shared_settings(variants).keys())


def headline(run: Run) -> list[str]:
    """Return the device, the network and what holds for the whole run, one line each."""
    device = run.device
    usable = format_bytes(device.capacity_bytes)
    first = f"{device.name} · {usable} usable  [{origin(device)}]"
    return [first, subject_line(run.settings.variants), *facts(run)]


def subject_line(variants: Sequence[Variant]) -> str:
    """Return the network, its inputs and the settings that all variants share; or the command."""
    one = variants[0]
    shared = [words for field, words in shared_settings(variants).items() if field != "optimizer"]
    parts = [
        ", ".join(dict.fromkeys(variant.network for variant in variants)),
        ", ".join(dict.fromkeys(variant.described_inputs for variant in variants)),
        "" if one.own.batches else one.described_classes,
        f"loss {one.own.loss}" if one.own.loss else "",
        ", ".join(dict.fromkeys(optimizer_name(variant) for variant in variants)),
        *shared,
        f"recomputing {one.own.checkpoint_blocks}" if one.own.checkpoint_blocks else "",
    ]
    return " · ".join(filter(None, parts))


def facts(run: Run) -> list[str]:
    """Return sentences on the device and the processes that hold for the whole run."""
    device, settings = run.device, run.settings
    lines = script.facts(run)
    if settings.processes > 1:
        how = "".join(f" ({each})" for each in settings.ddp.arguments)
        lines.append(
            f"{settings.processes} processes under DistributedDataParallel{how}; batches are per "
            "process."
        )
    if device.tf32_convolutions and any(
        variant.axes and variant.precision is Precision.FP32 for variant in settings.variants
    ):
        lines.append("fp32 convolutions run in TF32, PyTorch's default on this GPU.")
    return [*lines, *device.notes]


def optimizer_name(variant: Variant) -> str:
    """Return the optimizer's name: SGD, AdamW, or the callable that builds a user-supplied one.

    Empty for a user's own command.
    """
    if not variant.axes:
        return ""
    return variant.own.optimizer or _OPTIMIZER_NAMES[variant.optimizer]


def origin(device: DeviceInfo) -> str:
    """Return `measured` or `predicted`, and how to choose a GPU if none was named."""
    if device.is_assumed:
        return f"{device.source}: no GPU here; --gpu NAME for another"
    return str(device.source)


def of_whom(device: DeviceInfo) -> str:
    """Return the addition to a table's title if its figures are predicted."""
    return "" if device.source is Source.MEASURED else f", predicted for {device.name}"


def outcome_words(outcome: Outcome) -> str:
    """Return an outcome in few words; `ok` for a trial that ran."""
    return _OUTCOME_WORDS.get(outcome, outcome.value)


def ladder(trials: Sequence[Trial]) -> list[str]:
    """Return trials in the order they ran: `4 ok`, `8 out of memory`, `5x2 ok`."""
    words = []
    for trial in trials:
        if trial.purpose is Purpose.VALIDATION:
            continue  # a search of its own
        steps = trial.spec.accumulation_steps
        batch = str(trial.spec.batch_size) + (f"x{steps}" if steps > 1 else "")
        if trial.purpose is Purpose.COMPARISON:
            batch += " synthetic"
        words.append(f"{batch} {trial_words(trial)}")
    return words


def trial_words(trial: Trial) -> str:
    """Return the outcome of a trial, and the rank of the process that failed."""
    words = outcome_words(trial.outcome)
    if trial.script is not None and trial.outcome is Outcome.TIMED_OUT:
        words = "undecided"
    return words if trial.ran or trial.rank is None else f"{words} on rank {trial.rank}"


def verdict(boundary: Boundary) -> str:
    """Return the result of a search in a few words."""
    largest = boundary.largest
    apart = (boundary.first_failure or 0) - (largest or 0)
    multiples = f" (multiples of {apart})" if apart > 1 else ""
    if boundary.stop is StopReason.TIME:
        return f"at least {largest} (time ran out)" if largest else "nothing known (time ran out)"
    return {
        StopReason.PROVEN: f"largest {largest}{multiples}",
        StopReason.KERNEL_LIMIT: f"largest {largest} (kernel limit, not memory)",
        StopReason.NOTHING_FITS: "nothing fits",
        StopReason.MAX_BATCH: f"at least {largest} (--max-batch)",
        StopReason.HOST_MEMORY: "host memory ran out",
        StopReason.FAILED: "failed",
    }[boundary.stop]


def result_words(result: VariantResult) -> str:
    """Return the result of a search in a few words, with the steps that growing memory allows."""
    words = verdict(result.boundary)
    if not result.critical_growth:
        return words
    return f"{words} in {result.growth[-1].steps} steps: memory grows"


def growth_words(growth: Sequence[Growth]) -> str:
    """Return the growth of memory as a clause, the largest batch first."""
    return " and ".join(
        f"by {format_bytes(one.bytes_per_step)} a step at batch {one.batch} (full at about step "
        f"{one.full_at_step:,})"
        for one in reversed(growth)
    )


def largest_words(boundary: Boundary) -> str:
    """Return the largest batch that ran: `5`, or `>=5` if larger ones may run."""
    return f"{boundary.largest}" if boundary.is_exact else f">={boundary.largest}"


def guided_by(prediction: Prediction, settings: Settings) -> str:
    """Return the sentence on the prediction that a search begins with."""
    if prediction.largest is not None:
        return f"Predicted largest {predicted_largest(prediction, settings)}"
    why = prediction.detail.rstrip(".") or "nothing is predicted to fit"
    return f"No prediction guided the search: {why}"


def predicted_largest(prediction: Prediction, settings: Settings) -> str:
    """Return the predicted largest batch, with the assumptions of the prediction."""
    # Larger batches than the largest allowed one are not predicted.
    least = "at least " if prediction.largest == settings.max_batch else ""
    how = f" ({', '.join(prediction.assumptions)})" if prediction.assumptions else ""
    return f"{least}{prediction.largest}{how}"


def plan_words(plan: TrainingPlan) -> str:
    """Return micro-batch and accumulation steps: `5 x 2`."""
    return f"{plan.micro_batch} x {plan.accumulation_steps}"


def wanted(run: Run) -> str:
    """Return the title of the table of recommendations."""
    together = f" (use x {run.processes} processes)" if run.processes > 1 else ""
    return f"For {wanted_batch(run.settings)}{together}"


def wanted_batch(settings: Settings) -> str:
    """Return the effective batch of the recommendations as a noun."""
    batches = {recipe_of(variant, settings.target).batch for variant in settings.variants}
    if len(batches) > 1:
        return "each network"
    (batch,) = batches
    return "the best batch that fits" if batch is None else f"an effective batch of {batch}"


def peak_share(item: Recommendation, device: DeviceInfo) -> str:
    """Return the peak of the recommended trial as a share of the usable memory."""
    measured = item.trial.measurement if item.trial else None
    if measured is None:
        return "-"
    return f"{measured.peak_bytes / device.capacity_bytes:.0%}"


def throughput(item: Recommendation) -> str:
    """Return the images per second of the recommended trial; `-` if not known."""
    return rate_of(item.trial.measurement if item.trial else None)


def rate_of(measured: Measurement | None) -> str:
    """Return images per second with half the range of single steps: `9.52 ±1%`."""
    if measured is None or measured.images_per_second is None:
        return "-"
    seconds = measured.step_seconds
    rate = format_rate(measured.images_per_second)
    if len(seconds) < 2:  # noqa: PLR2004 - one step has no spread
        return rate
    return f"{rate} ±{(max(seconds) - min(seconds)) / 2 / statistics.median(seconds):.0%}"


def answer(run: Run) -> str:
    """Return the run in one sentence."""
    names = labels(run.settings.variants)
    best = run.best_result
    growing = next((result for result in run.results if result.critical_growth), None)
    if growing is not None and (best is None or best.recommendation is None):
        return (
            f"On {run.device.name} the memory of {growing.variant.subject} grows "
            f"{growth_words(growing.growth)}: no batch is safe ({run.device.source})."
        )
    if best is None or best.recommendation is None:
        has_run = any(result.boundary.largest is not None for result in run.results)
        nothing = "no variant ran" if run.settings.script is None else "the command did not run"
        what = "no largest batch was found" if has_run else f"{nothing} at any batch size"
        return f"On {run.device.name} {what} ({run.device.source})."
    plan = best.recommendation.plan
    steps = plan.accumulation_steps
    accumulated = f" and {steps} accumulation steps" if steps > 1 else " and no accumulation"
    if plan.processes > 1:
        accumulated += f" in each of {plan.processes} processes"
    return (
        f"On {run.device.name} ({format_bytes(run.device.capacity_bytes)} usable, "
        f"{run.device.source}), {_what_to_train(best.variant, names[best.variant])} with "
        f"micro-batch {plan.micro_batch}{accumulated} (effective "
        f"batch {plan.effective_batch}) and learning rate "
        f"{rate_words(plan, best.variant, run.settings.target)}; "
        f"{_boundary_clause(best.boundary, run.device.source)}."
    )


def _what_to_train(variant: Variant, name: str) -> str:
    """The network and the name of its settings: `train unet at 512x512 as fp32 / batch`."""
    return f"train {variant.subject} as {name}" if variant.axes else f"run {variant.subject}"


def rate_words(plan: TrainingPlan, variant: Variant, target: Target) -> str:
    """Return the learning rate: `2.50e-04`; for a user-supplied optimizer a factor, `x 2.00`.

    Without a known batch of the rate, the factor is a formula.

    Args:
        plan: The plan with the rate.
        variant: The variant of the plan.
        target: The target of the run.
    """
    base_batch = recipe_of(variant, target).base_batch
    if variant.own.optimizer is not None and base_batch is not None:
        rule = plan.lr_rule
        return f"x {rate_factor(base_batch, plan.effective_batch, rule):.2f}"
    if plan.learning_rate is None:
        return plan.rate_formula or "-"
    return f"{plan.learning_rate:.2e}"


def short_rate_words(plan: TrainingPlan, variant: Variant, target: Target) -> str:
    """Return `rate_words` in few characters: `x 80/b`.

    Args:
        plan: The plan with the rate.
        variant: The variant of the plan.
        target: The target of the run.
    """
    words = rate_words(plan, variant, target)
    if not words.startswith("lr * "):
        return words
    short = words.removeprefix("lr * ").replace("your batch", "b").replace(" ", "")
    return f"x {short if short.startswith('sqrt') else short.strip('()')}"


def _boundary_clause(boundary: Boundary, source: Source) -> str:
    if boundary.is_exact and source is Source.PREDICTED:
        why = "memory" if boundary.stop is StopReason.PROVEN else "a kernel limit"
        return (
            f"the largest batch that should run is {boundary.largest}, and "
            f"{boundary.first_failure} should fail for {why}"
        )
    if boundary.is_exact:
        why = "ran out of memory" if boundary.stop is StopReason.PROVEN else "met a kernel limit"
        return (
            f"the largest batch that ran is {boundary.largest}, and {boundary.first_failure} {why}"
        )
    ran = "ran" if source is Source.MEASURED else "should run"
    return f"batch {boundary.largest} {ran}; the exact boundary is not known ({boundary.stop})"


def portrait_warnings(variants: Sequence[Variant]) -> list[str]:
    """Return warnings on portrait sizes, in which width and height may be swapped."""
    sizes = dict.fromkeys(v.resolution for v in variants if v.resolution is not None)
    return [
        f"{size} is {size.describe()}, a portrait image; if you meant width first, "
        f"write {size.width}x{size.height}"
        for size in sizes
        if size.is_portrait
    ]
