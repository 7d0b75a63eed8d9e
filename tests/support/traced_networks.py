"""Networks to trace, each with one difficulty, and recordings as readable text."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from bsprobe.records.habits import Habits, Outputs
from bsprobe.records.trials import Validation
from bsprobe.records.variants import Variant
from bsprobe.simulate.timeline import (
    Action,
    Kind,
    RecordedScratch,
    RecordedStorage,
    Recording,
    Section,
    Timeline,
    at_one_batch,
)
from bsprobe.simulate.trace import fake_model
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.simulate.versions import INSTALLED, Version
from tests.support.tiny_networks import VARIANT

Function = Callable[[torch.Tensor], torch.Tensor]
Build = Callable[[Variant], nn.Module]
NOTHING_KEPT = Habits(outputs=Outputs.DROPPED)
STEPS = (Section.FIRST_STEP, Section.LATER_STEP)


class PlainNet(nn.Module):
    """Two convolutions and a ReLU, so that all events of its step fit on a page."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.classifier = nn.Conv2d(8, variant.logits, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.relu(self.features(images)))
        return logits


class ExtraNet(PlainNet):
    """Applies an extra function to the output of its first layer."""

    def __init__(self, variant: Variant, *, extra: Function) -> None:
        super().__init__(variant)
        self.between = Extra(extra)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.between(self.features(images)))
        return logits


class Extra(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def extra(function: Function) -> Build:
    """Return a builder of a network that calls a function between its layers."""
    return functools.partial(ExtraNet, extra=function)


def tracer_of(
    build: Build,
    variant: Variant = VARIANT,
    validation: Validation | None = None,
    habits: Habits = NOTHING_KEPT,
    version: Version = INSTALLED,
) -> StepTracer:
    """Return a tracer of a test network, by default in a loop that keeps nothing."""
    variant = replace(variant, own=replace(variant.own, habits=habits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_model, "build_model", build)
        return StepTracer(variant, validation, version=version)


def at(timeline: Timeline, batch: int) -> Recording:
    """Return the recording that a timeline predicts for a batch size."""
    return Recording(
        batch=batch,
        storages=tuple((each.place, each.kind, each.size.at(batch)) for each in timeline.storages),
        scratches=tuple(
            RecordedScratch(
                place=each.place,
                sizes=tuple(size.at(batch) for size in each.sizes),
                convolution=None
                if each.convolution is None
                else timeline.convolutions[each.convolution].at(batch),
                reduction=None if each.reduction is None else each.reduction.at(batch),
                uses_cublas=each.uses_cublas,
                elements=None if each.elements is None else each.elements.at(batch),
            )
            for each in timeline.scratches
        ),
        sections=timeline.sections,
        handovers=timeline.handovers,
        settling=timeline.settling,
    )


def story(recording: Recording, section: Section) -> list[str]:
    """List the events of a section as lines: `+` allocates, `-` frees, `*` is inside a kernel.

    Allocations that only count elements are left out, because they depend on the PyTorch version.
    """
    lines = []
    for action, subject in recording.sections[section]:
        if action is Action.SCRATCH:
            scratch = recording.scratches[subject]
            if scratch.elements is not None:
                continue
            direction = scratch.convolution.direction if scratch.convolution else ""
            words = ("*", scratch.place.module, scratch.place.operator, direction)
        else:
            place, kind, size = recording.storages[subject]
            sign = "+" if action is Action.ALLOCATE else "-"
            words = (sign, place.module, place.operator, f"{size} {kind}")
        lines.append(" ".join(filter(None, words)))
    return lines


def live_at_the_end(recording: Recording) -> set[int]:
    """Return the storages that nothing frees."""
    live: set[int] = set()
    for section in (Section.SETUP, *at_one_batch(recording).steps(2)):
        play(recording, section, live)
    return live


def play(recording: Recording, section: Section, live: set[int]) -> None:
    """Update the live storages over a section, checking that births and deaths are consistent."""
    for action, subject in recording.sections[section]:
        if action is Action.ALLOCATE:
            assert subject not in live
            live.add(subject)
        elif action is Action.FREE:
            live.remove(subject)
        elif action is Action.HAND_ON:
            newer, older = recording.handovers[subject]
            live.remove(newer)
            live.add(older)


def born(recording: Recording, section: Section = Section.FIRST_STEP) -> Iterator[RecordedStorage]:
    """Yield the storages that a section allocates."""
    for action, subject in recording.sections[section]:
        if action is Action.ALLOCATE:
            yield recording.storages[subject]


def bytes_of(recording: Recording, kind: Kind, section: Section) -> int:
    """Return the bytes of a kind that a section allocates."""
    return sum(size for _, its_kind, size in born(recording, section) if its_kind is kind)


def bytes_left(recording: Recording) -> Counter[Kind]:
    """Return the bytes that nothing frees, by kind."""
    left = Counter[Kind]()
    for subject in live_at_the_end(recording):
        _, kind, size = recording.storages[subject]
        left[kind] += size
    return left
