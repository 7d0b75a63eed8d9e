"""Networks to trace, each with its own difficulty, and recordings as text that can be read."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from bsprobe.records.variants import Variant
from bsprobe.simulate.timeline import (
    Action,
    Kind,
    Phase,
    RecordedScratch,
    Recording,
    Section,
    Timeline,
)
from bsprobe.simulate.trace import fake_model
from bsprobe.simulate.trace.tracer import StepTracer
from tests.support.tiny_networks import VARIANT

Build = Callable[[Variant], nn.Module]
STEPS = (Section.FIRST_STEP, Section.LATER_STEP)


class PlainNet(nn.Module):
    """Two convolutions and a ReLU: every event of its step fits on a page."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.classifier = nn.Conv2d(8, variant.classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(torch.relu(self.features(images)))
        return logits


class ExtraNet(PlainNet):
    """Does something more with what its first layer makes of the images."""

    def __init__(self, variant: Variant, *, extra: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__(variant)
        self.between = Extra(extra)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.between(self.features(images)))
        return logits


class Extra(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def tracer_of(
    monkeypatch: pytest.MonkeyPatch, build: Build, variant: Variant = VARIANT
) -> StepTracer:
    """A tracer of a network of ours."""
    monkeypatch.setattr(fake_model, "build_model", build)
    return StepTracer(variant)


def at(timeline: Timeline, batch: int) -> Recording:
    """What a timeline says that a recording at a batch size would be."""
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
                uses_cublas=each.uses_cublas,
                elements=None if each.elements is None else each.elements.at(batch),
            )
            for each in timeline.scratches
        ),
        sections=timeline.sections,
    )


def story(recording: Recording, section: Section) -> list[str]:
    """The events of a section as lines: `+` allocates, `-` frees, `*` is inside a kernel."""
    return list(_lines(recording, section))


def _lines(recording: Recording, section: Section) -> Iterator[str]:
    for action, subject in recording.sections[section]:
        if action is Action.SCRATCH:
            scratch = recording.scratches[subject]
            conv = scratch.convolution
            inside = "" if conv is None else f" {conv.direction}"
            yield f"* {scratch.place.module} {scratch.place.operator}{inside}".replace("*  ", "* ")
        else:
            place, kind, size = recording.storages[subject]
            sign = "+" if action is Action.ALLOCATE else "-"
            where = f"{place.module} {place.operator}".strip()
            yield f"{sign} {where} {size} {kind}"


def live_at_the_end(recording: Recording) -> dict[int, Kind]:
    """Storages that nothing frees, and what they are for."""
    live: dict[int, Kind] = {}
    for section in (Section.SETUP, *STEPS):
        for action, subject in recording.sections[section]:
            if action is Action.ALLOCATE:
                assert subject not in live
                live[subject] = recording.storages[subject][1]
            elif action is Action.FREE:
                del live[subject]
    return live


def bytes_of(recording: Recording, kind: Kind, section: Section, phase: Phase | None = None) -> int:
    """Everything of a kind that a section allocates."""
    born = (subject for action, subject in recording.sections[section] if action is Action.ALLOCATE)
    storages = (recording.storages[subject] for subject in born)
    return sum(
        size
        for place, its_kind, size in storages
        if its_kind is kind and phase in (None, place.phase)
    )
