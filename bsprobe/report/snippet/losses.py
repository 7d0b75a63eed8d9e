"""The names of the snippet's template for batches and losses."""

from bsprobe.records.batch_forms import BatchForm, Call, LossIs, TargetsAre
from bsprobe.records.variants import LossAt, Variant
from bsprobe.records.workload import BUILT_IN, LOSSES, TIMM, Problem
from bsprobe.report.snippet.literals import is_name, literal

_IGNORED_PIXEL, _IGNORED_CLASS = 255, -100
"""Cityscapes' train id of ignored pixels; PyTorch's default, which is no class."""
_AUXILIARY_WEIGHT = 0.5
"""The weight in torchvision's segmentation reference training, as in the trials."""
_LONGEST = 89
"""The longest expression after `    return `, in a line of 100 characters."""
_SEVERAL = 2
_PAIR = BatchForm(call=Call.ONE, targets=TargetsAre.PIXELS)
"""The form of synthetic batches, and of user-supplied ones of older files."""
_CALLS = {
    Call.ONE: "model(batch[0])",
    Call.POSITIONAL: "model(*batch[0])",
    Call.NAMED: "model(**batch[0])",
    Call.DETECTOR: "model(batch[0], batch[1])",
}
"""The outputs of pairs."""
_OWN_LOSSES = {
    LossIs.ENTRY: 'outputs["loss"]',
    LossIs.ATTRIBUTE: "outputs.loss",
    LossIs.SUM: "sum(each.float() for each in outputs.values())",
    LossIs.FIRST: "outputs[0]",
}
_VALID = ("The number of valid targets.", "int((targets != IGNORE).sum())", "targets")
_COUNTS = {
    TargetsAre.PIXELS: _VALID,
    TargetsAre.CLASSES: _VALID,
    TargetsAre.VALUES: ("The number of values in the targets.", "targets.numel()", "targets"),
    TargetsAre.IMAGES: ("The number of images.", "len(targets)", "images"),
    TargetsAre.OTHER: ("The number of images.", "", "images"),
}
"""The first line of `counted`, its result, and the word for what is counted."""


def names(variant: Variant, form: BatchForm | None) -> dict[str, object]:
    """Return the names for batches and losses.

    Args:
        variant: The variant to train.
        form: The form of user-supplied batches; None without them, or if it is not known.
    """
    own = variant.own
    known = form or _PAIR
    is_of_logits = own.own_loss is None and known.loss is LossIs.OF_LOGITS
    is_built_in = own.own_loss is None and (own.batches is None or own.loss is not None)
    is_summed = is_built_in or is_of_logits
    is_of_images = _is_of_images(variant, form)
    first_line, count, counted = _COUNTS[TargetsAre.CLASSES if is_of_images else known.targets]
    is_of_inputs = not is_summed and known.targets is TargetsAre.OTHER
    targets = "batch[1]" if own.batches is None else "targets_of(batch)"
    items = "images" if is_of_images else "pixels"
    at_logits = is_built_in and variant.loss_at is LossAt.LOGITS and not is_of_images
    return {
        "is_summed": is_summed,
        "own_loss": own.own_loss is not None,
        "own_batches": own.batches is not None,
        "form_is_unknown": own.batches is not None and form is None,
        "outputs": _outputs(known),
        "targets": _targets(known),
        "counted_in_batch": "batch" if is_of_inputs else targets,
        "count_of": "batch" if is_of_inputs else "targets",
        "finds_logits": is_summed and not variant.model.startswith((*BUILT_IN, TIMM)),
        "at_logits": at_logits,
        "cell": "cell * " if at_logits else "",
        "is_classifier": is_of_images and own.batches is None,
        "may_be_binary": is_summed and (variant.classes == 1 or own.batches is not None),
        "mode": "trilinear" if _is_of_volumes(variant) else "bilinear",
        "auxiliary_weight": _AUXILIARY_WEIGHT,
        "network_loss": _OWN_LOSSES.get(known.loss or LossIs.ATTRIBUTE, ""),
        "items": items if is_summed else counted,
        "counted": first_line,
        "count": count or _images(known),
        "is_mean_of_valid": not is_summed and "IGNORE" in count,
        "has_ignored": is_summed or "IGNORE" in count,
        "ignored": _IGNORED_CLASS if is_of_images else _IGNORED_PIXEL,
        "ignored_comment": ""
        if is_summed
        else "  # the label that the loss ignores; -1 if it ignores none",
        "share": "/ whole" if is_summed else "* count / whole",
    }


def _is_of_images(variant: Variant, form: BatchForm | None) -> bool:
    """True if a target is a class, not a map of classes of pixels."""
    if form is not None and variant.own.loss not in LOSSES:
        return form.targets is TargetsAre.CLASSES
    return variant.problem is Problem.CLASSIFICATION


def _is_of_volumes(variant: Variant) -> bool:
    return variant.resolution is not None and variant.resolution.slices is not None


def _outputs(form: BatchForm) -> str:
    """The outputs of a network for `batch`, as Python."""
    if form.call in _CALLS:
        return _CALLS[form.call]
    if form.call is Call.FIELD:
        return f"model({_field(form, form.fields[0])})"
    named = [_named(form, name) for name in form.fields]
    line = f"model({', '.join(named)})"
    if len(line) < _LONGEST:
        return line
    return "model(\n" + "".join(f"        {each},\n" for each in named) + "    )"


def _targets(form: BatchForm) -> str:
    """The targets in `batch`, as Python: one field, a dict of several, or none."""
    if form.call in _CALLS:
        return "batch[1]"
    if len(form.labels) < _SEVERAL:
        return _field(form, form.labels[0]) if form.labels else "None"
    named = (f"{literal(name)}: {_field(form, name)}" for name in form.labels)
    return f"{{{', '.join(named)}}}"


def _images(form: BatchForm) -> str:
    """The number of images in `batch`, as Python; 1 if no input is known to have one for each."""
    if form.call is Call.ONE:
        return "len(batch[0])"
    if form.sized is None:
        return "1"
    if form.call in (Call.POSITIONAL, Call.NAMED):
        key = int(form.sized) if form.call is Call.POSITIONAL else form.sized
        return f"len(batch[0][{literal(key)}])"
    return f"len({_field(form, form.sized)})"


def _named(form: BatchForm, name: str) -> str:
    """A field of `batch` as an argument of the network, as Python."""
    field = _field(form, name)
    return f"{name}={field}" if is_name(name) else f"**{{{literal(name)}: {field}}}"


def _field(form: BatchForm, name: str) -> str:
    if not form.has_attributes:
        return f"batch[{literal(name)}]"
    return f"batch.{name}" if is_name(name) else f"getattr(batch, {literal(name)})"
