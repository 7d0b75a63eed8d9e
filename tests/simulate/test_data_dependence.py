"""Losses that read values are traced if the values are known or bounded, else refused."""

from dataclasses import replace

import pytest
import torch

from bsprobe.records.assumptions import Assumption
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import (
    Action,
    Kind,
    Phase,
    Place,
    Recording,
    Section,
    largest_bytes,
)
from bsprobe.simulate.trace.data_dependence import (
    Decisions,
    TooManyConditionsError,
    UntraceableModelError,
    largest_branch,
)
from bsprobe.simulate.trace.source_lines import SourceLine
from bsprobe.simulate.trace.tracer import StepTracer
from tests.support.tiny_networks import VARIANT, TinyNet
from tests.support.traced_networks import born, tracer_of

LOSSES = "tests.support.data_dependent"
SIZES, BRANCH = Assumption.LARGEST_SIZES, Assumption.LARGEST_BRANCH
PIXELS = 2 * 32 * 48
"""Pixels of the labels at batch 2."""


def traced(loss: str) -> StepTracer:
    return tracer_of(TinyNet, replace(VARIANT, own=OwnParts(loss=f"{LOSSES}:{loss}")))


@pytest.mark.parametrize(
    ("loss", "assumptions"),
    [
        ("by_constants", ()),
        ("checked", ()),
        ("hard_pixels", (SIZES,)),
        ("by_selected_rows", (SIZES,)),
        ("by_coordinates", (SIZES,)),
        ("a_quarter_of_the_valid", (SIZES,)),
        ("hardest_by_threshold", (SIZES, BRANCH)),
    ],
)
def test_a_loss_is_traced_under_assumptions_that_are_reported(
    loss: str, assumptions: tuple[Assumption, ...]
) -> None:
    tracer = traced(loss)

    assert len(tracer.timeline(5).traced_at) == 2  # valid at every batch size
    assert tracer.facts.assumptions == assumptions


def outputs_of(recording: Recording, operator: str) -> list[int]:
    return [size for place, _, size in born(recording) if place.operator == operator]


def test_a_mask_is_taken_to_select_all_elements() -> None:
    assert outputs_of(traced("hard_pixels").record(2), "index") == [8 * PIXELS, 4 * PIXELS]


@pytest.mark.parametrize("loss", ["hard_pixels", "by_selected_rows", "a_quarter_of_the_valid"])
def test_gradients_of_what_was_selected_are_written_into_zeros(loss: str) -> None:
    copies = {"index_put", "scatter", "scatter_add"}
    recording = traced(loss).record(2)

    backward = [place for place, _, _ in born(recording) if place.phase is Phase.BACKWARD]
    assert {"new_zeros", "zeros"} & {place.operator for place in backward}
    assert not copies & {place.operator for place in backward}


def test_a_count_of_a_mask_is_taken_to_be_all_of_its_elements() -> None:
    values, indices = outputs_of(traced("a_quarter_of_the_valid").record(2), "topk")
    assert (values, indices) == (4 * PIXELS // 4, 8 * PIXELS // 4)


def test_of_two_branches_the_larger_one_is_taken() -> None:
    # One branch masks all pixels, the other one takes the first hundred.
    assert outputs_of(traced("hardest_by_threshold").record(2), "index") == [4 * PIXELS]


@pytest.mark.parametrize(
    ("loss", "line", "why", "hint"),
    [
        ("read_number", "return loss * 2 if loss.item() > 3", "needs the values", "if a > b"),
        ("read_array", "labels.cpu().numpy().mean()", "needs the values", "--device"),
        ("waiting", "while loss > 3:", "more than 10000 times", "loops"),
        ("by_pixels", "if labels[0, 0, 2] > 0:", "limit of 4 conditions", "torch.where"),
        ("by_found_classes", "for label in torch.unique(labels):", "iterates over", "all classes"),
        ("repeated", "repeat_interleave(times)", "has no bound", "output_size"),
        ("put_together_again", "losses[losses < 1]", "fails at the largest size", "mask"),
    ],
)
def test_an_untraceable_loss_is_refused_with_its_line_and_a_hint(
    loss: str, line: str, why: str, hint: str
) -> None:
    with pytest.raises(UntraceableModelError) as caught:
        traced(loss).timeline(2)

    message = str(caught.value)
    assert "tests/support/data_dependent.py, line " in message
    assert line in message
    assert why in message
    assert hint in (caught.value.hint or "")


def test_numbers_that_are_only_logged_can_be_traced() -> None:
    plain, logged = (traced(loss).record(2) for loss in ("checked", "logged"))
    steps = [
        [(place.phase, place.operator, size) for place, size, _ in born(each)]
        for each in (plain, logged)
    ]
    assert [each for each in steps[1] if each[0] is Phase.BACKWARD] == [
        each for each in steps[0] if each[0] is Phase.BACKWARD
    ]


def test_the_users_line_is_named_beside_that_of_a_library() -> None:
    with pytest.raises(UntraceableModelError) as caught:
        tracer_of(TinyNet, replace(VARIANT, own=OwnParts(loss=f"{LOSSES}:in_a_library"))).timeline(
            2
        )

    assert "torchvision/" in str(caught.value)
    assert ", called by tests/support/data_dependent.py, line" in str(caught.value)


def test_a_program_without_conditions_runs_once() -> None:
    ran: list[Decisions] = []

    def run(decisions: Decisions) -> int:
        ran.append(decisions)
        return 7

    assert largest_branch(run, int) == (7, False)
    assert len(ran) == 1


def lines(number: int) -> tuple[SourceLine, ...]:
    return (SourceLine(file="loss.py", number=number),)


def test_all_branches_run_and_those_that_raise_are_left_out() -> None:
    ran: list[tuple[bool, ...]] = []

    def run(decisions: Decisions) -> int:
        answers = tuple(decisions.decide(lines(number)) for number in (1, 2, 1))
        ran.append(answers)
        if not answers[0]:
            raise ValueError("a failed check")
        return 10 if answers[1] else 20

    assert largest_branch(run, int) == (20, True)
    assert sorted(ran) == [
        (False, False, False),
        (False, True, False),
        (True, False, True),
        (True, True, True),
    ]


def test_if_all_branches_raise_the_first_error_is_raised() -> None:
    def run(decisions: Decisions) -> int:
        raise ValueError(f"{decisions.decide(lines(1))}")

    with pytest.raises(ValueError, match="True"):
        largest_branch(run, int)


def test_no_more_than_four_conditions_are_tried() -> None:
    decisions = Decisions()
    for number in (1, 2, 3, 4):
        decisions.decide(lines(number))
    with pytest.raises(TooManyConditionsError):
        decisions.decide(lines(5))


def test_the_largest_bytes_are_those_that_live_at_once() -> None:
    recording = traced("checked").record(2)
    everything = sum(size for _, _, size in recording.storages)
    setup = sum(size for _, _, size in born(recording, Section.SETUP))
    in_passes, most = largest_bytes(recording)
    assert setup < in_passes <= most < everything


def test_of_two_branches_the_passes_decide_where_an_update_takes_the_most() -> None:
    def recording(size: int) -> Recording:
        forward, update = (
            Place(phase=phase, module="", operator="empty")
            for phase in (Phase.FORWARD, Phase.OPTIMIZER)
        )
        events = [(action, n) for n in (0, 1) for action in (Action.ALLOCATE, Action.FREE)]
        return Recording(
            batch=1,
            storages=((forward, Kind.TEMPORARY, size), (update, Kind.TEMPORARY, 100)),
            scratches=(),
            sections={Section.FIRST_STEP: tuple(events)},
        )

    assert largest_bytes(recording(7)) == (7, 100)
    assert largest_bytes(recording(7)) < largest_bytes(recording(8)) == (8, 100)


def test_integer_buffers_are_known_and_counted_up() -> None:
    class Counts(TinyNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            norm = self.features[1]
            assert isinstance(norm, torch.nn.BatchNorm2d)
            seen.append(int(norm.num_batches_tracked or 0))
            return super().forward(images)

    seen: list[int] = []
    tracer_of(Counts).record(2)
    assert seen == [0, 1]
