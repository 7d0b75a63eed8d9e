"""Timelines from two recordings, and recordings that do not match."""

import re
from dataclasses import replace

import pytest

from bsprobe.simulate.cudnn.convolutions import Convolution
from bsprobe.simulate.timeline import (
    Action,
    Affine,
    Kind,
    MismatchError,
    Phase,
    Place,
    RecordedScratch,
    Recording,
    Section,
    at_one_batch,
    matched,
)
from tests.support.convolution_examples import PLAIN

PLACE = Place(phase=Phase.FORWARD, module="conv", operator="convolution")
ELSEWHERE = replace(PLACE, module="head")
EVENTS = ((Action.ALLOCATE, 0), (Action.SCRATCH, 0), (Action.FREE, 0))


def conv(batch: int) -> Convolution:
    return replace(PLAIN, input_size=(batch, *PLAIN.input_size[1:]))


def recording(
    batch: int,
    *,
    place: Place = PLACE,
    kind: Kind = Kind.TEMPORARY,
    size: int | None = None,
    scratch: RecordedScratch | None = None,
    events: tuple[tuple[Action, int], ...] = EVENTS,
) -> Recording:
    """A storage of 100 bytes plus 10 per image, and a convolution with a buffer of 20 per image."""
    usual = RecordedScratch(
        place=PLACE, sizes=(20 * batch,), convolution=conv(batch), elements=7 * batch
    )
    return Recording(
        batch=batch,
        storages=((place, kind, 100 + 10 * batch if size is None else size),),
        scratches=(usual if scratch is None else scratch,),
        sections={Section.FIRST_STEP: events},
    )


@pytest.mark.parametrize(("one", "other"), [(2, 3), (2, 7), (1, 5)])
def test_sizes_at_two_batch_sizes_make_lines(one: int, other: int) -> None:
    timeline = matched(recording(one), recording(other))

    assert timeline.traced_at == (one, other)
    assert timeline.storages[0].size == Affine(fixed=100, per_image=10)
    scratch = timeline.scratches[0]
    assert scratch.sizes == (Affine(fixed=0, per_image=20),)
    assert scratch.elements == Affine(fixed=0, per_image=7)
    assert scratch.convolution == 0
    assert [each.at(11) for each in timeline.convolutions] == [conv(11)]


def test_a_recording_alone_holds_for_its_own_batch_size() -> None:
    timeline = at_one_batch(recording(5))

    assert timeline.traced_at == (5,)
    assert timeline.storages[0].size == Affine(fixed=150, per_image=0)
    assert timeline.scratches[0].convolution == 0
    assert [each.at(5) for each in timeline.convolutions] == [conv(5)]


AT_3 = conv(3)


def scratched(
    *,
    place: Place = PLACE,
    sizes: tuple[int, ...] = (60,),
    convolution: Convolution | None = AT_3,
) -> Recording:
    """A recording at batch 3 with another kernel."""
    scratch = RecordedScratch(place=place, sizes=sizes, convolution=convolution, elements=21)
    return recording(3, scratch=scratch)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (recording(3, events=EVENTS[:1]), "the events of the first step differ"),
        (recording(3, place=ELSEWHERE), "module='head'"),
        (recording(3, kind=Kind.GRADIENT), "do not match"),
        (recording(3, size=119), "120 and 119 do not grow linearly"),
        (recording(3, size=181), "120 and 181 do not grow linearly"),
        (recording(4, size=131), "120 and 131 do not grow linearly"),  # no integer per image
        (scratched(place=ELSEWHERE), "module='head'"),
        (scratched(sizes=(60, 1)), "do not match"),
        (scratched(convolution=None), "only one of the two is a convolution"),
        (scratched(convolution=replace(AT_3, padding=(2, 2))), "differ in more than the batch"),
        (
            scratched(convolution=replace(AT_3, input_size=(3, 64, 32, 65))),
            "33 and 32 do not grow linearly",
        ),
    ],
)
def test_recordings_that_differ_in_more_than_linear_sizes_are_refused(
    other: Recording, message: str
) -> None:
    with pytest.raises(MismatchError, match=re.escape(message)):
        matched(recording(2), other)
