"""Sentences on variants without a recommendation: the reason, and options to try."""

from collections.abc import Callable

from bsprobe.analysis.notes import Note
from bsprobe.records.bounds import ASKED
from bsprobe.records.failures import Outcome, is_mismatch_of_sizes
from bsprobe.records.runs import Run, StopReason, VariantResult
from bsprobe.records.units import Resolution
from bsprobe.records.variants import RGB, Checkpointing, Norm, Precision, Variant
from bsprobe.records.workload import Problem
from bsprobe.report.run.sentences import growth_words

_MULTIPLE = 32
"""Networks halve their images up to five times."""
_GROWS = (
    "Memory grows {}. No batch is safe. Something keeps tensors from step to step, such as a list "
    "of losses or outputs. Keep numbers (loss.item()) or copies on the host "
    "(output.detach().cpu())."
)


def note_on(run: Run, result: VariantResult) -> Note:
    """Return the note on a variant without a recommendation."""
    if result.critical_growth:
        return Note(text=_GROWS, figure=growth_words(result.growth))
    if undecided := _undecided(run, result):
        return Note(text=f"No recommendation: {undecided}.")
    text = without_recommendation(result)
    if result.boundary.stop is StopReason.NOTHING_FITS and run.settings.batch_multiple > 1:
        text += " Try a smaller --batch-multiple."
    if result.boundary.stop is StopReason.NOTHING_FITS and run.settings.script is not None:
        text += " All that the script itself loads beside PyTorch counts against the limit."
    return Note(text=text)


def note_on_undecided(run: Run, result: VariantResult) -> Note | None:
    """Return the note on a trial that was not decided and ended the search, or None."""
    undecided = _undecided(run, result)
    if result.recommendation is None or not undecided:
        return None
    return Note(text=f"Larger batches are undecided: {undecided}.")


def note_on_slow_growth(_: Run, result: VariantResult) -> Note | None:
    """Return the note on memory that grows but outlasts any training, or None."""
    if result.critical_growth or not result.growth:
        return None
    return Note(
        text="Memory grows {}, which no training reaches. Something keeps a small tensor in every "
        "step, such as a list of losses: keep loss.item().",
        figure=growth_words(result.growth),
    )


def without_recommendation(result: VariantResult) -> str:
    """Return the reason why a variant has no recommendation, and options to try."""
    boundary, size = result.boundary, result.variant.resolution
    if boundary.stop is StopReason.NOTHING_FITS:
        ways = ways_to_fit(result.variant)
        advice = f" Try {', '.join(ways)}." if ways else ""
        return f"Not even batch {boundary.first_failure} fits.{advice}"
    detail = boundary.detail[:1].upper() + boundary.detail[1:]
    reason = f"No recommendation: {boundary.stop}. {detail}".strip()
    if size is None or not is_mismatch_of_sizes(boundary.detail):
        return f"{reason}{_labels_of_own_loss(result.variant)}"
    near = nearest_multiples(size)
    if not near:
        return reason
    sizes = " or ".join(_size_option(result.variant, each) for each in near)
    return f"{reason.rstrip('.')}. Try sides that are multiples of {_MULTIPLE}: {sizes}."


def _undecided(run: Run, result: VariantResult) -> str:
    """The reason why a trial of a user's command was not decided, if that ended the search."""
    trials = [trial for trial in run.trials if trial.spec.variant == result.variant]
    if run.settings.script is None or result.boundary.stop is not StopReason.TIME:
        return ""
    undecided = [trial for trial in trials if trial.outcome is Outcome.TIMED_OUT]
    if not undecided or undecided[-1].failure is None:
        return ""
    return f"batch {undecided[-1].spec.batch_size}: {undecided[-1].failure.words}"


def _labels_of_own_loss(variant: Variant) -> str:
    """The sentence on the labels that a user-supplied loss gets, which it may not expect."""
    if variant.own.own_loss is None or variant.own.batches is not None:
        return ""
    shape = "N, D, H, W" if variant.size.slices is not None else "N, H, W"
    shape = "N,)" if variant.problem is Problem.CLASSIFICATION else f"{shape})"
    return f" --loss {variant.own.own_loss} gets the outputs and int64 labels ({shape}."


def ways_to_fit(variant: Variant) -> list[str]:
    """Return options that reduce the memory of the smallest batch."""
    ways: list[str] = []
    if not variant.axes:
        return ways
    if variant.checkpointing is Checkpointing.OFF:
        ways.append("--checkpointing on")
    if variant.precision is Precision.FP32:
        ways.append("--precision amp-fp16")
    if variant.norm is Norm.GROUP:
        ways.append("--norm group-amp")
    size = variant.resolution
    if size is not None and _is_accepted(half := _with_sides(size, lambda side: side // 2)):
        ways.append(_size_option(variant, half))
    return ways


def nearest_multiples(size: Resolution) -> list[Resolution]:
    """Return the next sizes below and above whose sides are multiples of 32."""
    below = _with_sides(size, lambda side: side // _MULTIPLE * _MULTIPLE)
    above = _with_sides(size, lambda side: -(-side // _MULTIPLE) * _MULTIPLE)
    return [each for each in (below, above) if each != size and _is_accepted(each)]


def _with_sides(size: Resolution, change: Callable[[int], int]) -> Resolution:
    slices = None if size.slices is None else change(size.slices)
    return Resolution(height=change(size.height), width=change(size.width), slices=slices)


def _is_accepted(size: Resolution) -> bool:
    are_sides = size.height in ASKED["height"] and size.width in ASKED["width"]
    return are_sides and (size.slices is None or size.slices in ASKED["slices"])


def _size_option(variant: Variant, size: Resolution) -> str:
    if variant.channels == RGB and size.slices is None:
        return f"--resolution {size}"
    return f"--input {variant.channels}x{size}"
