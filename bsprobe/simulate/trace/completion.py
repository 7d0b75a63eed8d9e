"""Variants completed by what only their networks tell: image size, classes, and the problem."""

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
"""The size of the images of most classifiers."""
_IMAGES = 2
"""Of the batch that is looked at: BatchNorm on a 1x1 map refuses one."""
_OF_IMAGES = 2
"""Dimensions of logits that are about whole images."""


def all_completed(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Variants as `completed` has them; each network is looked at once, whatever its training.

    A norm and recomputed blocks make another network, which may be refused.
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
    """A variant whose image size, classes and problem are known.

    Logits are counted by one forward pass on fake tensors. A network that this pass fails with is
    left to the trials, which show the failure.

    Raises:
        UsageError: The variant names something unknown.
    """
    if variant.own.batches is not None:
        return variant
    if variant.resolution is None:
        variant = replace(variant, resolution=_size(variant))
    return variant if variant.classes is not None else _counted(_with_told(variant))


def _with_told(variant: Variant) -> Variant:
    """The variant with the arguments that its factory is told, for the reader to see."""
    told = {name: str(value) for name, value in told_arguments(variant).items()}
    arguments = tuple(sorted((told | dict(variant.own.model_args)).items()))
    return replace(variant, own=replace(variant.own, model_args=arguments))


def _size(variant: Variant) -> Resolution:
    found = own_size(variant.model)
    if found is not None:
        return found
    return _IMAGENET if variant.problem is Problem.CLASSIFICATION else DEFAULT_RESOLUTION


def _counted(variant: Variant) -> Variant:
    """The variant with as many classes as there are logits, or as its arguments say."""
    logits = _logits(variant)
    is_classifier = isinstance(logits, torch.Tensor) and logits.dim() == _OF_IMAGES
    if is_classifier:
        variant = replace(variant, labels_of=Problem.CLASSIFICATION)
    typed = variant.own.arguments.get("num_classes")
    if isinstance(logits, torch.Tensor) and logits.dim() >= _OF_IMAGES and typed is None:
        return replace(variant, classes=logits.shape[1])
    return replace(variant, classes=typed or variant.label_classes)


def _logits(variant: Variant) -> object:
    """The logits of two images, without values; None where the network does not get so far."""
    try:
        return logits_of(StepTracer(variant).outputs(_IMAGES))
    except UsageError:
        raise
    except Exception:  # noqa: BLE001 - a user's network may raise anything: trials record it
        return None
