"""The words that terminal and markdown share."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from bsprobe.analysis.memory_line import line_through
from bsprobe.analysis.recommendation import (
    LearningRateRule,
    rate_factor,
    recipe_of,
    search_trials,
)
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.failures import Outcome
from bsprobe.records.runs import (
    REFERENCE,
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
from bsprobe.records.units import GIB, format_bytes
from bsprobe.records.variants import Norm, OptimizerName, Precision, Variant, labels
from bsprobe.records.workload import Problem, has_recipe

_OUTCOME_WORDS = {Outcome.FITS: "ok", Outcome.FITS_WITH_RETRIES: "ok with retries"}
_ADVICE_GIB = (12, 24)
_ADVICE_BATCHES = "2–4"  # noqa: RUF001 - as printed
_TYPICAL_BATCHES = "2–8"  # noqa: RUF001 - as printed
_OPTIMIZER_NAMES = {OptimizerName.SGD: "SGD", OptimizerName.ADAMW: "AdamW"}


def headline(device: DeviceInfo, settings: Settings) -> list[str]:
    """The network and the device, in two lines that fit 80 columns."""
    variants = settings.variants
    one = variants[0]
    optimizers = dict.fromkeys(optimizer_name(variant) for variant in variants)
    first = f"{device.name} · {format_bytes(device.capacity_bytes)} usable  [{origin(device)}]"
    second = " · ".join(
        [
            ", ".join(dict.fromkeys(variant.network for variant in variants)),
            ", ".join(dict.fromkeys(variant.described_inputs for variant in variants)),
            *([] if one.own.batches else [one.described_classes]),
            *([f"loss {one.own.loss}"] if one.own.loss else []),
            ", ".join(optimizers),
            *([f"recomputing {one.own.checkpoint_blocks}"] if one.own.checkpoint_blocks else []),
        ]
    )
    lines = [first, second]
    if settings.processes > 1:
        how = "".join(f" ({each})" for each in settings.ddp.arguments)
        lines.append(
            f"{settings.processes} processes under DistributedDataParallel{how}; batches are of "
            "one."
        )
    if device.tf32_convolutions and any(v.precision is Precision.FP32 for v in variants):
        lines.append("fp32 convolutions run in TF32, PyTorch's default on this GPU.")
    lines += device.notes
    return lines


def optimizer_name(variant: Variant) -> str:
    """The optimizer, for people: SGD, AdamW, or the name of what builds your own."""
    return variant.own.optimizer or _OPTIMIZER_NAMES[variant.optimizer]


def origin(device: DeviceInfo) -> str:
    """The word measured or predicted, and how to predict for a card of one's choice."""
    if device.is_assumed:
        return f"{device.source}: no GPU here; --gpu NAME for another"
    return str(device.source)


def of_whom(device: DeviceInfo) -> str:
    """The addition to a table's title where its figures are not measured."""
    if device.source is Source.MEASURED:
        return ""
    way_out = " (no GPU here; --gpu NAME for another)" if device.is_assumed else ""
    return f", predicted for {device.name}{way_out}"


def outcome_words(outcome: Outcome) -> str:
    """An outcome in the fewest words: a trial that ran is simply ok."""
    return _OUTCOME_WORDS.get(outcome, outcome.value)


def ladder(trials: Sequence[Trial]) -> list[str]:
    """The trials of a variant in the order they ran: `4 ok`, `8 out of memory`, `5x2 ok`."""
    words = []
    for trial in trials:
        steps = trial.spec.accumulation_steps
        batch = str(trial.spec.batch_size) + (f"x{steps}" if steps > 1 else "")
        if trial.purpose is Purpose.COMPARISON:
            batch += " synthetic"
        words.append(f"{batch} {trial_words(trial)}")
    return words


def trial_words(trial: Trial) -> str:
    """The outcome of a trial in words, and the rank where one of several processes failed."""
    words = outcome_words(trial.outcome)
    return words if trial.ran or trial.rank is None else f"{words} on rank {trial.rank}"


def verdict(boundary: Boundary) -> str:
    """The end of a search in a phrase."""
    largest = boundary.largest
    if boundary.stop is StopReason.TIME:
        return f"at least {largest} (time ran out)" if largest else "nothing known (time ran out)"
    return {
        StopReason.PROVEN: f"largest {largest}",
        StopReason.KERNEL_LIMIT: f"largest {largest} (kernel limit, not memory)",
        StopReason.NOTHING_FITS: "nothing fits",
        StopReason.MAX_BATCH: f"at least {largest} (--max-batch)",
        StopReason.HOST_MEMORY: "host memory ran out",
        StopReason.FAILED: "failed",
    }[boundary.stop]


def largest_words(boundary: Boundary) -> str:
    """The largest batch that ran: `5`, or `>=5` where larger ones may run."""
    return f"{boundary.largest}" if boundary.is_exact else f">={boundary.largest}"


def guided_by(prediction: Prediction, settings: Settings) -> str:
    """The sentence about what a search begins with."""
    if prediction.largest is not None:
        # Where the most that may be tried is predicted to run, more was not predicted.
        least = "at least " if prediction.largest == settings.max_batch else ""
        how = f" ({', '.join(prediction.assumptions)})" if prediction.assumptions else ""
        return f"Predicted largest {least}{prediction.largest}{how}"
    why = prediction.detail.rstrip(".") or "nothing is predicted to fit"
    return f"No prediction guided the search: {why}"


def predicted_beside_measured(run: Run, result: VariantResult) -> str | None:
    """The prediction that guided a variant's search beside its result; None without one."""
    prediction = result.prediction
    if prediction is None:
        return None
    text = guided_by(prediction, run.settings)
    if prediction.largest is None:
        return f"{text}."
    text += f", measured {_measured_largest(result.boundary)}"
    measured = {
        trial.spec.batch_size: trial.measurement.peak_bytes
        for trial in search_trials(run.trials, result.variant)
        if trial.measurement is not None and trial.outcome is Outcome.FITS
    }
    predicted = dict(prediction.peaks)
    for batch in sorted(measured.keys() & predicted.keys())[-1:]:
        error = (predicted[batch] - measured[batch]) / measured[batch]
        text += (
            f"; at batch {batch} {format_bytes(predicted[batch])} predicted, "
            f"{format_bytes(measured[batch])} measured ({error:+.1%})"
        )
    return text + "."


def _measured_largest(boundary: Boundary) -> str:
    if boundary.is_exact:
        return str(boundary.largest)
    return "none" if boundary.largest is None else f"at least {boundary.largest}"


def plan_words(plan: TrainingPlan) -> str:
    """Micro-batch and accumulation: `5 x 2`."""
    return f"{plan.micro_batch} x {plan.accumulation_steps}"


def wanted(settings: Settings) -> str:
    """The title of the table of recommendations."""
    together = f" (use x {settings.processes} processes)" if settings.processes > 1 else ""
    return f"For {wanted_batch(settings)}{together}"


def wanted_batch(settings: Settings) -> str:
    """The effective batch that is recommended for, as a noun."""
    batches = {recipe_of(variant, settings.target).batch for variant in settings.variants}
    if len(batches) > 1:
        return "each network"
    (batch,) = batches
    return "the best batch that fits" if batch is None else f"an effective batch of {batch}"


def about_recipe(settings: Settings) -> list[str]:
    """Sentences on the origin of the learning rates, and on the options that decide about them."""
    given = settings.target
    filled = [recipe_of(variant, given) for variant in settings.variants]
    lines = []
    by_recipe = (v for v in settings.variants if has_recipe(v.model) and v.own.optimizer is None)
    if any(by_recipe) and given.base_learning_rate in (None, REFERENCE.base_learning_rate):
        lines.append(
            f"Rates by DeepLabV2's recipe: {REFERENCE.base_learning_rate:.1e} at batch "
            f"{filled[0].base_batch}, poly, 1x/10x/20x; yours: --base-lr with --base-batch."
        )
    if any(target.base_learning_rate is None for target in filled):
        lines.append(
            "LR: multiply the rate that you have at your batch b by this factor; --base-lr RATE "
            "--base-batch b writes it out."
        )
    if any(target.batch is None for target in filled):
        lines.append("--target-batch N asks for another effective batch, by accumulation.")
    return lines


def peak_share(item: Recommendation, device: DeviceInfo) -> str:
    """The recommended trial's peak as a share of what the device has to give."""
    measured = item.trial.measurement if item.trial else None
    if measured is None:
        return "-"
    return f"{measured.peak_bytes / device.capacity_bytes:.0%}"


def throughput(item: Recommendation) -> str:
    """Images per second of the recommended trial, where known."""
    return rate_of(item.trial.measurement if item.trial else None)


def rate_of(measured: Measurement | None) -> str:
    """Images per second, and by how much single steps were faster and slower."""
    if measured is None or measured.images_per_second is None:
        return "-"
    seconds = measured.step_seconds
    rate = f"{measured.images_per_second:.3g}"
    if len(seconds) < 2:  # noqa: PLR2004 - one step has no spread
        return rate
    return f"{rate} ±{(max(seconds) - min(seconds)) / 2 / statistics.median(seconds):.0%}"


def answer(run: Run) -> str:
    """The run in one sentence."""
    names = labels(run.settings.variants)
    best = run.best_result
    if best is None or best.recommendation is None:
        has_run = any(result.boundary.largest is not None for result in run.results)
        what = "no largest batch was found" if has_run else "no variant ran at any batch size"
        return f"On {run.device.name} {what} ({run.device.source})."
    plan = best.recommendation.plan
    steps = plan.accumulation_steps
    accumulated = f" with {steps} accumulation steps" if steps > 1 else " without accumulation"
    if plan.processes > 1:
        accumulated += f" in each of {plan.processes} processes"
    return (
        f"On {run.device.name} ({format_bytes(run.device.capacity_bytes)} usable, "
        f"{run.device.source}), train {best.variant.subject} as "
        f"{names[best.variant]} with micro-batch {plan.micro_batch}{accumulated} (effective "
        f"batch {plan.effective_batch}) and learning rate "
        f"{rate_words(plan, best.variant, run.settings.target)}; "
        f"{_boundary_clause(best.boundary, run.device.source)}."
    )


def rate_words(plan: TrainingPlan, variant: Variant, target: Target) -> str:
    """The learning rate: `2.50e-04`; of an optimizer of your own what to multiply its rate by.

    Where the batch that a rate belongs to is not known, the factor is a formula.
    """
    base_batch = recipe_of(variant, target).base_batch
    if variant.own.optimizer is not None and base_batch is not None:
        rule = LearningRateRule(plan.lr_rule)
        return f"x {rate_factor(base_batch, plan.effective_batch, rule):.2f}"
    if plan.learning_rate is None:
        return plan.rate_formula or "-"
    return f"{plan.learning_rate:.2e}"


def short_rate_words(plan: TrainingPlan, variant: Variant, target: Target) -> str:
    """As `rate_words`, for a column of a table that fits 80 columns: `x 80/b`."""
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
    return f"batch {boundary.largest} ran, the exact boundary is not known ({boundary.stop})"


def common_advice(run: Run) -> list[tuple[str, str]]:
    """Common advice on segmentation beside what was found."""
    if any(variant.problem is not Problem.SEGMENTATION for variant in run.settings.variants):
        return []
    boundaries = [result.boundary for result in run.results if not result.boundary.has_failed]
    largest = [each.largest for each in boundaries if each.largest is not None]
    if not largest:
        return []
    low, high = min(largest), max(largest)
    found = f"largest batch {low}" if low == high else f"largest batch {low} to {high}, by variant"
    capacity = run.device.capacity_bytes / GIB
    in_range = _ADVICE_GIB[0] * 0.9 <= capacity <= _ADVICE_GIB[1]
    is_gpu = run.device.kind is not DeviceKind.CPU
    whose = "GPU" if is_gpu else "CPU"
    other = f"says nothing about {capacity:.1f} GiB of {whose} memory; {found}"
    power = 2 ** int(math.log2(high))
    unused = 1 - power / high
    return [
        (
            f'"{_ADVICE_BATCHES} images on {_ADVICE_GIB[0]}–{_ADVICE_GIB[1]} GB"',  # noqa: RUF001 - as printed
            found if is_gpu and in_range else other,
        ),
        (f'"{_TYPICAL_BATCHES} is typical"', found),
        (
            '"double until it fails, then halve"',
            f"would stop at {power}"
            + (
                f" and leave {unused:.0%} of the possible batch unused"
                if unused
                else ", the largest"
            ),
        ),
    ]


def amp_against_fp32(run: Run) -> list[str]:
    """Sentences on autocast with plain GroupNorm, in this run's own figures."""
    found = {result.variant: result for result in run.results}
    lines = []
    for variant, result in found.items():
        rival = found.get(replace(variant, precision=Precision.FP32))
        if variant.norm is not Norm.GROUP or rival is None or rival is result:
            continue
        sizes = [_per_image_bytes(run, each.variant) for each in (result, rival)]
        if None in sizes or sizes[0] <= sizes[1]:  # type: ignore[operator] # None was seen before
            continue
        amp, fp32 = (format_bytes(size) for size in sizes if size is not None)
        remedy = found.get(replace(variant, norm=Norm.GROUP_AMP))
        size = _per_image_bytes(run, remedy.variant) if remedy is not None else None
        lines.append(
            f"With plain GroupNorm {variant.precision} takes {amp} an image, fp32 {fp32}: more "
            "memory, not less"
            + (f"; with group-amp it takes {format_bytes(size)}." if size is not None else ".")
        )
    return lines


def _per_image_bytes(run: Run, variant: Variant) -> int | None:
    """Bytes that one image more takes, from the two largest batches that ran by themselves."""
    peaks = [
        (trial.spec.batch_size, trial.measurement.peak_allocated_bytes)
        for trial in search_trials(run.trials, variant)
        if trial.measurement is not None
    ]
    line = line_through(peaks)
    return None if line is None else round(line.per_image_bytes)


def portrait_warnings(variants: Sequence[Variant]) -> list[str]:
    """A portrait resolution is nearly always a width written first."""
    sizes = dict.fromkeys(v.resolution for v in variants if v.resolution is not None)
    return [
        f"{size} is {size.describe()}, a portrait image; if you meant width first, "
        f"write {size.width}x{size.height}"
        for size in sizes
        if size.is_portrait
    ]
