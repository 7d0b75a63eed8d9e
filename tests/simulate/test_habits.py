"""Habits of a training loop change the memory of the traced step."""

import pytest

from bsprobe.records.habits import BatchPlace, Gradients, Habits, Outputs, ZeroGrad
from bsprobe.simulate.timeline import Action, Kind, Phase, Recording, Section, largest_bytes
from tests.support.traced_networks import NOTHING_KEPT, PlainNet, bytes_left, tracer_of

PARAMETER_BYTES = 864 + 32 + 128 + 16
"""Bytes of the parameters of PlainNet."""
OUTPUT_BYTES = 2 * 4 * 8 * 12 * 4
"""Bytes of its logits at batch 2: four classes on a quarter of the side."""
BATCH_BYTES = (2 * 3 * 32 * 48 * 4, 2 * 32 * 48 * 8)
LOSS_BYTES = 4


def recorded(**habits: object) -> Recording:
    return tracer_of(PlainNet, habits=Habits(**habits)).record(2)  # type: ignore[arg-type] # each of its own type


def batches(recording: Recording) -> list[tuple[Action, int]]:
    """Return the events of the batch in a later step."""
    found: list[tuple[Action, int]] = []
    for action, subject in recording.sections[Section.LATER_STEP]:
        if action in (Action.ALLOCATE, Action.FREE):
            _, kind, size = recording.storages[subject]
            if kind is Kind.BATCH:
                found.append((action, size))
    return found


def test_outputs_and_loss_live_into_the_next_step_by_default() -> None:
    left = bytes_left(recorded())
    assert left[Kind.OUTPUT] == OUTPUT_BYTES + LOSS_BYTES
    assert left - bytes_left(recorded(outputs=Outputs.DROPPED)) == {Kind.OUTPUT: left[Kind.OUTPUT]}


def test_outputs_that_end_with_the_step_live_through_its_backward_pass_alone() -> None:
    dropped, step, kept = (recorded(outputs=each) for each in Outputs)
    assert bytes_left(step) == bytes_left(dropped)

    passes = [largest_bytes(each)[0] for each in (dropped, step, kept)]
    assert passes[1] - passes[0] == OUTPUT_BYTES
    assert passes[2] == passes[1]  # the kept outputs of the last step are replaced by then


def test_outputs_end_as_soon_as_the_next_ones_are_there() -> None:
    recording = recorded()
    later = recording.sections[Section.LATER_STEP]
    _, older = zip(*recording.handovers, strict=True)
    freed = next(at for at, event in enumerate(later) if event == (Action.FREE, older[0]))
    made = [
        recording.storages[subject][0].operator
        for action, subject in later[:freed]
        if action is Action.ALLOCATE
    ]
    assert recording.storages[older[0]][2] == OUTPUT_BYTES
    assert made[-1] == "convolution"  # the loss upsamples them later


@pytest.mark.parametrize("place", ZeroGrad)
def test_gradients_that_are_set_to_zero_live_on(place: ZeroGrad) -> None:
    zeroed = recorded(gradients=Gradients.ZERO, zero_grad=place)
    assert bytes_left(zeroed)[Kind.GRADIENT] == PARAMETER_BYTES

    later = zeroed.sections[Section.LATER_STEP]
    made = [subject for action, subject in later if action is Action.ALLOCATE]
    assert sum(zeroed.storages[each][1] is Kind.GRADIENT for each in made) == 0


@pytest.mark.parametrize(
    ("place", "phases"),
    [
        (ZeroGrad.START, {Phase.OPTIMIZER}),
        (ZeroGrad.BEFORE_BACKWARD, {Phase.FORWARD}),
        (ZeroGrad.END, {Phase.OPTIMIZER}),
    ],
)
def test_gradients_are_freed_where_zero_grad_stands(place: ZeroGrad, phases: set[Phase]) -> None:
    recording = recorded(zero_grad=place)
    last = Phase.OPTIMIZER  # that of the last step
    freed = set()
    for action, subject in recording.sections[Section.LATER_STEP]:
        if action is Action.ALLOCATE:
            last = recording.storages[subject][0].phase
        elif action is Action.FREE and recording.storages[subject][1] is Kind.GRADIENT:
            freed.add(last)
    assert freed == phases


def test_a_batch_that_is_moved_is_freed_before_or_after() -> None:
    made = [(Action.ALLOCATE, size) for size in BATCH_BYTES]
    freed = [(Action.FREE, size) for size in BATCH_BYTES]
    assert batches(recorded(batch=BatchPlace.KEPT)) == []
    assert batches(recorded(batch=BatchPlace.MOVED)) == freed + made
    assert batches(recorded(batch=BatchPlace.OVERLAPPING)) == made + freed
    assert bytes_left(recorded(batch=BatchPlace.MOVED)) == bytes_left(recorded())


def test_the_loop_of_the_tests_keeps_nothing() -> None:
    assert recorded(outputs=Outputs.DROPPED) == tracer_of(PlainNet, habits=NOTHING_KEPT).record(2)
