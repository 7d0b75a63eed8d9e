"""Completion of variants from their networks: image size, classes and problem."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bsprobe.records.errors import UsageError
from bsprobe.records.units import Resolution
from bsprobe.records.variants import DEFAULT_RESOLUTION, Variant
from bsprobe.records.workload import Problem
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.training.models.elsewhere import own_size
from bsprobe.training.models.factory import told_arguments
from bsprobe.training.outputs import logits_of

_IMAGENET = Resolution(height=224, width=224)
"""Image size of most classifiers."""
_IMAGES = 2
"""Batch size of the forward pass: BatchNorm on a 1x1 map rejects a single image."""
_OF_IMAGES = 2
"""Dimensions of a classifier's logits."""


def all_completed(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Complete variants; variants that share a network share its forward pass.

    The norm and checkpointing are part of the network, which may reject them.
    """
    looked_at: dict[tuple[object, ...], Variant] = {}
    found = []
    for variant in variants:
        key = (
            *(variant.model, variant.own, variant.resolution, variant.channels, variant.classes),
            *(variant.norm, variant.checkpointing),
        )
        if key not in looked_at:
            looked_at[key] = completed(variant)
        alike = looked_at[key]
        found.append(
            replace(
                variant,
                resolution=alike.resolution,
                classes=alike.classes,
                labels_of=alike.labels_of,
                own=alike.own,
            )
        )
    return tuple(found)


def completed(variant: Variant) -> Variant:
    """Return the variant with its image size, classes and problem.

    One forward pass on fake tensors counts the logits. If it fails, the variant keeps the classes
    of its labels, and the trials report the failure.

    Raises:
        UsageError: The variant names an unknown model or part.
    """
    if variant.own.batches is not None:
        return variant
    if variant.resolution is None:
        variant = replace(variant, resolution=_size(variant))
    return variant if variant.classes is not None else _counted(_with_told(variant))


def _with_told(variant: Variant) -> Variant:
    """Add the arguments that the model factory receives, so that reports show them."""
    told = {name: str(value) for name, value in told_arguments(variant).items()}
    arguments = tuple(sorted((told | dict(variant.own.model_args)).items()))
    return replace(variant, own=replace(variant.own, model_args=arguments))


def _size(variant: Variant) -> Resolution:
    found = own_size(variant.model)
    if found is not None:
        return found
    return _IMAGENET if variant.problem is Problem.CLASSIFICATION else DEFAULT_RESOLUTION


def _counted(variant: Variant) -> Variant:
    """Set the classes to the number of logits, or to `num_classes` if that is given."""
    logits = _logits(variant)
    is_classifier = isinstance(logits, torch.Tensor) and logits.dim() == _OF_IMAGES
    if is_classifier:
        variant = replace(variant, labels_of=Problem.CLASSIFICATION)
    typed = variant.own.arguments.get("num_classes")
    if isinstance(logits, torch.Tensor) and logits.dim() >= _OF_IMAGES and typed is None:
        return replace(variant, classes=logits.shape[1])
    return replace(variant, classes=typed or variant.label_classes)


def _logits(variant: Variant) -> object:
    """Return the logits of two images; None if the forward pass fails."""
    try:
        return logits_of(StepTracer(variant).outputs(_IMAGES))
    except UsageError:
        raise
    except Exception:  # noqa: BLE001 - a network may raise anything: trials report it
        return None
