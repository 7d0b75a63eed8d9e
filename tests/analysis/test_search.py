"""The search finds the exact boundary in few trials and proves both sides."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsprobe.analysis.expectation import Expected
from bsprobe.analysis.memory_line import Line
from bsprobe.analysis.search import Probe, Process, find_boundary, gallop
from bsprobe.records.failures import RAN, Certainty, Outcome
from bsprobe.records.runs import Boundary, StopReason

OOM = Outcome.OUT_OF_MEMORY
ANY, FRESH = Process.ANY, Process.FRESH


class Machine:
    """Answers like the runner: the first trial of a process is fresh, a failure ends the process.

    Attributes:
        probes: Every answer, in order, as (batch, asked for, probe).
    """

    def __init__(
        self,
        outcome: Callable[[int, Process], Outcome],
        *,
        peak: Callable[[int], int] = lambda batch: batch,
        certainty: Certainty = Certainty.CERTAIN,
    ) -> None:
        self.probes: list[tuple[int, Process, Probe]] = []
        self._outcome = outcome
        self._peak = peak
        self._certainty = certainty
        self._is_unused = True

    def __call__(self, batch: int, process: Process) -> Probe:
        fresh = process is FRESH or self._is_unused
        outcome = self._outcome(batch, FRESH if fresh else ANY)
        self._is_unused = outcome not in RAN
        probe = Probe(outcome=outcome, fresh=fresh, detail=f"batch {batch}: {outcome}")
        if outcome in RAN:
            probe = replace(probe, peak_bytes=self._peak(batch))
        else:
            probe = replace(probe, certainty=self._certainty)
        assert (batch, process) not in [known[:2] for known in self.probes], "asked twice"
        assert batch >= 1
        self.probes.append((batch, process, probe))
        return probe

    @property
    def batches(self) -> list[int]:
        return [batch for batch, _, _ in self.probes]

    @property
    def trials_after_doubling(self) -> int:
        failures = [i for i, (_, _, probe) in enumerate(self.probes) if probe.outcome not in RAN]
        return len(self.probes) - failures[0] - 1

    def was_shown(self, batch: int, *, outcomes: frozenset[Outcome]) -> bool:
        """Return whether a batch was last probed in a fresh process with one of these outcomes."""
        last = [probe for tried, _, probe in self.probes if tried == batch][-1:]
        return bool(last) and last[0].fresh and last[0].outcome in outcomes


FAILURES = frozenset(Outcome) - RAN


def up_to(largest: int, limit: Outcome = OOM) -> Callable[[int, Process], Outcome]:
    return lambda batch, _: Outcome.FITS if batch <= largest else limit


def proven(largest: int) -> Boundary:
    return Boundary(stop=StopReason.PROVEN, largest=largest, first_failure=largest + 1)


def ended(
    stop: StopReason, detail: str = "", *, largest: int | None = None, fails: int | None = None
) -> Boundary:
    """Return a boundary that is not proven."""
    return Boundary(stop=stop, detail=detail, largest=largest, first_failure=fails)


def assert_proven(machine: Machine, boundary: Boundary) -> None:
    assert boundary.largest is not None
    assert boundary.first_failure == boundary.largest + 1
    assert machine.was_shown(boundary.largest, outcomes=RAN)
    assert machine.was_shown(boundary.first_failure, outcomes=FAILURES)


def search(machine: Machine, *, capacity: int = 2**40, max_batch: int = 4096) -> Boundary:
    return find_boundary(machine, capacity_bytes=capacity, max_batch=max_batch)


# The boundary of memory.


@given(
    fixed=st.integers(0, 2**40),
    per_image=st.integers(1, 2**34),
    largest=st.integers(1, 3000),
    spare=st.floats(0, 1, exclude_max=True),
)
def test_affine_memory_takes_at_most_two_trials_beyond_the_doubling(
    fixed: int, per_image: int, largest: int, spare: float
) -> None:
    capacity = fixed + per_image * largest + int(per_image * spare)
    machine = Machine(up_to(largest), peak=lambda batch: fixed + per_image * batch)
    boundary = search(machine, capacity=capacity)
    assert boundary == proven(largest)
    assert_proven(machine, boundary)
    assert machine.trials_after_doubling <= 2
    doubled = 2 ** (largest.bit_length())
    assert machine.batches[: doubled.bit_length()] == [2**i for i in range(doubled.bit_length())]


@given(
    per_image=st.integers(2, 2**30),
    largest=st.integers(1, 1000),
    steered=st.integers(1, 2**42),
    seed=st.integers(0, 2**32),
)
def test_noisy_memory_and_a_wrong_capacity_cost_trials_and_never_the_truth(
    per_image: int, largest: int, steered: int, seed: int
) -> None:
    def peak(batch: int) -> int:
        # Rises with each image by zero to twice the usual amount.
        return per_image * batch + random.Random(seed + batch).randrange(per_image)

    machine = Machine(up_to(largest), peak=peak)
    boundary = search(machine, capacity=steered)
    assert boundary == proven(largest)
    assert_proven(machine, boundary)


@pytest.mark.parametrize("largest", [*range(1, 130), 255, 256, 257, 1000, 1023, 1024])
def test_however_wrong_the_aim_the_trials_stay_within_twice_a_bisection(largest: int) -> None:
    floor = 2 ** (largest.bit_length() - 1)
    for aim in range(floor + 1, 2 * floor):
        machine = Machine(up_to(largest))
        assert search(machine, capacity=aim).largest == largest
        # Two prove the sides, two are for the rounding of a bisection.
        assert machine.trials_after_doubling <= 2 * math.log2(floor or 1) + 2, (aim, largest)


@given(st.data())
def test_memory_that_is_not_monotonic_still_ends_between_one_that_ran_and_one_that_failed(
    data: st.DataObject,
) -> None:
    around = data.draw(st.integers(3, 200))
    odd = data.draw(st.sets(st.integers(max(1, around - 6), around + 6), max_size=8))

    def outcome(batch: int, _: Process) -> Outcome:
        return Outcome.FITS if (batch <= around) is (batch not in odd) else OOM

    machine = Machine(outcome)
    boundary = search(machine, capacity=data.draw(st.integers(1, 400)))
    if boundary.stop is StopReason.PROVEN:
        assert_proven(machine, boundary)
    else:
        assert boundary.stop is StopReason.NOTHING_FITS
        assert 1 in odd


def test_a_failure_below_the_largest_is_told() -> None:
    machine = Machine(lambda batch, _: Outcome.FITS if batch <= 12 and batch != 8 else OOM)
    # 8 fails, 7 runs, and the proven boundary is below the gap.
    assert search(machine) == proven(7)
    used = Machine(
        lambda batch, process: (
            OOM if batch > 12 or (batch == 8 and process is ANY) else Outcome.FITS
        )
    )
    # 8 fails only in a used process: its last probe ran.
    assert search(used) == proven(12)


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=70),
    st.integers(1, 100),
)
def test_whatever_a_machine_answers_the_search_ends_and_claims_only_what_it_saw(
    table: list[tuple[bool, bool]], capacity: int
) -> None:
    def outcome(batch: int, process: Process) -> Outcome:
        return Outcome.FITS if table[batch - 1][process is FRESH] else OOM

    machine = Machine(outcome)
    boundary = search(machine, capacity=capacity, max_batch=len(table))
    assert max(machine.batches) <= len(table)
    if boundary.stop is StopReason.PROVEN:
        assert_proven(machine, boundary)
    elif boundary.stop is StopReason.MAX_BATCH:
        assert boundary.largest == len(table)
        assert machine.probes[-1][0] == len(table)
    else:
        assert boundary.stop is StopReason.NOTHING_FITS
        assert (boundary.largest, boundary.first_failure) == (None, 1)
        assert machine.was_shown(1, outcomes=FAILURES)


@given(shared=st.integers(0, 150), fresh=st.integers(0, 100))
def test_the_last_word_is_spoken_by_fresh_processes(shared: int, fresh: int) -> None:
    machine = Machine(
        lambda batch, process: (
            Outcome.FITS if batch <= (fresh if process is FRESH else shared) else OOM
        )
    )
    boundary = search(machine, capacity=60)
    if fresh == 0:
        assert boundary.stop is StopReason.NOTHING_FITS
    else:
        assert boundary == proven(fresh)
        assert_proven(machine, boundary)


def test_a_search_step_by_step() -> None:
    machine = Machine(up_to(11), peak=lambda batch: 20 + 10 * batch)
    search(machine, capacity=135)
    assert [(batch, process, probe.fresh) for batch, process, probe in machine.probes] == [
        (1, ANY, True),
        (2, ANY, False),
        (4, ANY, False),
        (8, ANY, False),
        (16, ANY, False),
        (11, FRESH, True),
        (12, FRESH, True),
    ]


def test_a_trial_that_needed_retries_ran_but_does_not_bend_the_line() -> None:
    def outcome(batch: int, _: Process) -> Outcome:
        if batch > 9:
            return OOM
        return Outcome.FITS_WITH_RETRIES if batch == 8 else Outcome.FITS

    machine = Machine(outcome, peak=lambda batch: 60 if batch == 8 else 10 * batch)
    assert search(machine, capacity=95).largest == 9
    assert machine.trials_after_doubling == 2


def test_a_batch_that_ran_with_retries_alone_can_be_the_largest() -> None:
    machine = Machine(
        lambda batch, _: (
            Outcome.FITS if batch < 7 else (Outcome.FITS_WITH_RETRIES if batch == 7 else OOM)
        )
    )
    assert search(machine) == proven(7)


# Other ends.


def test_batch_one_not_fitting_is_a_result_with_a_prediction_too() -> None:
    for expected in (None, Expected(largest=1, line=None)):
        machine = Machine(up_to(0))
        boundary = find_boundary(machine, capacity_bytes=1, max_batch=64, expected=expected)
        assert boundary == ended(StopReason.NOTHING_FITS, "batch 1: out of memory", fails=1)
        assert machine.batches == [1]


def test_batch_one_failing_in_a_used_process_is_tried_again_in_a_fresh_one() -> None:
    asked: list[tuple[int, Process]] = []

    def measure(batch: int, process: Process) -> Probe:
        asked.append((batch, process))
        return Probe(outcome=OOM, fresh=process is FRESH)

    boundary = find_boundary(measure, capacity_bytes=1, max_batch=8)
    assert boundary == Boundary(stop=StopReason.NOTHING_FITS, first_failure=1)
    assert asked == [(1, ANY), (1, FRESH)]


def test_a_probable_end_of_memory_at_batch_one_is_a_failure() -> None:
    machine = Machine(up_to(0), certainty=Certainty.PROBABLE)
    detail = (
        "batch 1 probably ran out of memory, but no smaller batch ran to confirm it: batch 1: out "
        "of memory"
    )
    assert search(machine) == ended(StopReason.FAILED, detail, fails=1)


@pytest.mark.parametrize("largest", [1, 2, 5, 8, 15, 16])
def test_a_probable_end_of_memory_is_confirmed_by_a_smaller_batch_in_a_fresh_process(
    largest: int,
) -> None:
    machine = Machine(up_to(largest), certainty=Certainty.PROBABLE)
    boundary = search(machine)
    assert boundary.stop is StopReason.PROVEN
    assert_proven(machine, boundary)


def test_a_kernel_limit_is_no_want_of_memory() -> None:
    machine = Machine(up_to(53, Outcome.KERNEL_LIMIT))
    boundary = search(machine, capacity=100)
    detail = "batch 54: kernel limit"
    assert boundary == ended(StopReason.KERNEL_LIMIT, detail, largest=53, fails=54)
    assert boundary.is_exact
    assert_proven(machine, boundary)


def test_memory_that_ends_before_the_kernel_limit_is_proven_as_memory() -> None:
    machine = Machine(
        lambda batch, _: (
            Outcome.FITS if batch <= 30 else (OOM if batch < 54 else Outcome.KERNEL_LIMIT)
        )
    )
    assert search(machine) == proven(30)


@pytest.mark.parametrize(
    ("smallest", "largest", "max_batch", "expected"),
    [
        (2, 11, 64, proven(11)),
        (2, 2, 64, proven(2)),
        (3, 3, 64, proven(3)),
        (8, 8, 64, proven(8)),
        (2, 1, 64, ended(StopReason.NOTHING_FITS, "batch 2: out of memory", fails=2)),
        (9, 20, 64, ended(StopReason.FAILED, "the model does not run at batch 8", fails=8)),
        (2, 20, 1, ended(StopReason.FAILED, "the model does not run at batch 1", fails=1)),
        (
            *(2, 20, 2),
            ended(StopReason.MAX_BATCH, "batch 2 ran, which is the largest allowed", largest=2),
        ),
    ],
)
def test_a_model_that_does_not_run_with_one_image_starts_with_more(
    smallest: int, largest: int, max_batch: int, expected: Boundary
) -> None:
    def outcome(batch: int, _: Process) -> Outcome:
        if batch < smallest:
            return Outcome.BATCH_TOO_SMALL
        return Outcome.FITS if batch <= largest else OOM

    machine = Machine(outcome)
    assert search(machine, max_batch=max_batch) == expected
    if expected.stop is StopReason.PROVEN:
        assert_proven(machine, expected)


@pytest.mark.parametrize("max_batch", [1, 2, 3, 12, 16, 100])
def test_no_batch_above_the_largest_allowed_is_tried(max_batch: int) -> None:
    machine = Machine(up_to(10**9))
    detail = f"batch {max_batch} ran, which is the largest allowed"
    boundary = search(machine, max_batch=max_batch)
    assert boundary == ended(StopReason.MAX_BATCH, detail, largest=max_batch)
    assert max(machine.batches) == max_batch


@pytest.mark.parametrize("largest", range(1, 12))
def test_a_boundary_just_below_the_largest_allowed_is_found(largest: int) -> None:
    machine = Machine(up_to(largest))
    assert search(machine, max_batch=12).largest == largest
    assert max(machine.batches) <= 12


@pytest.mark.parametrize("max_batch", range(8, 24))
def test_fresh_processes_that_run_the_largest_allowed_end_the_search_there(max_batch: int) -> None:
    machine = Machine(lambda batch, process: OOM if process is ANY and batch >= 8 else Outcome.FITS)
    boundary = search(machine, max_batch=max_batch)
    assert (boundary.stop, boundary.largest) == (StopReason.MAX_BATCH, max_batch)
    assert max(machine.batches) == max_batch


@pytest.mark.parametrize(
    ("trials", "largest", "first_failure"),
    [(0, None, None), (1, 1, None), (4, 8, None), (5, 8, 16), (6, 11, 16)],
)
def test_when_time_is_up_what_is_known_is_told(
    trials: int, largest: int | None, first_failure: int | None
) -> None:
    machine = Machine(up_to(11))
    boundary = find_boundary(
        machine,
        capacity_bytes=11,
        max_batch=64,
        out_of_time=lambda: len(machine.probes) >= trials,
    )
    detail = "the time limit for this variant was reached"
    assert boundary == ended(StopReason.TIME, detail, largest=largest, fails=first_failure)
    assert not boundary.is_exact
    assert len(machine.probes) == trials


def test_a_trial_that_takes_too_long_ends_the_search() -> None:
    machine = Machine(up_to(7, Outcome.TIMED_OUT))
    detail = "batch 8: batch 8: timed out"
    assert search(machine) == ended(StopReason.TIME, detail, largest=4, fails=8)
    assert machine.batches == [1, 2, 4, 8]


def test_a_bug_ends_the_search_and_never_shrinks_the_batch() -> None:
    machine = Machine(up_to(7, Outcome.FAILED))
    assert search(machine) == ended(StopReason.FAILED, "batch 8: failed", largest=4, fails=8)
    assert machine.batches == [1, 2, 4, 8]


def test_what_a_trial_raises_ends_the_search() -> None:
    def measure(batch: int, process: Process) -> Probe:
        raise KeyboardInterrupt((batch, process))

    with pytest.raises(KeyboardInterrupt):
        find_boundary(measure, capacity_bytes=1, max_batch=8)


# A search that begins with a prediction.


@st.composite
def cards(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """(fixed bytes, bytes an image, the largest batch, capacity) of affine memory."""
    fixed, per_image = draw(st.integers(0, 5000)), draw(st.integers(10, 1000))
    largest, spare = draw(st.integers(1, 3000)), draw(st.floats(0, 1, exclude_max=True))
    return fixed, per_image, largest, fixed + per_image * largest + int(per_image * spare)


def machine_of(card: tuple[int, int, int, int], *, noise: float = 0.0, seed: int = 0) -> Machine:
    fixed, per_image, largest, _ = card

    def peak(batch: int) -> int:
        wobble = random.Random(batch * 7919 + seed).uniform(-noise, noise) * per_image
        return max(0, fixed + per_image * batch + int(wobble))

    return Machine(up_to(largest), peak=peak)


def guided(
    machine: Machine, expected: Expected, *, capacity: int, max_batch: int = 4096
) -> Boundary:
    return find_boundary(machine, capacity_bytes=capacity, max_batch=max_batch, expected=expected)


lines = st.none() | st.builds(
    Line,
    fixed_bytes=st.floats(0, 20_000),
    per_image_bytes=st.floats(-10, 3000),
)


@given(
    card=cards(),
    expected=st.builds(Expected, largest=st.integers(1, 4096), line=lines),
    noise=st.floats(0, 5),
    seed=st.integers(0, 2**32),
)
def test_a_prediction_never_changes_the_boundary(
    card: tuple[int, int, int, int], expected: Expected, noise: float, seed: int
) -> None:
    _, _, largest, capacity = card
    machine = machine_of(card, noise=noise, seed=seed)
    boundary = guided(machine, expected, capacity=capacity)
    assert boundary == proven(largest)
    assert_proven(machine, boundary)


@given(
    card=cards(),
    off=st.sampled_from([-1, 0, 1]),
    noise=st.floats(0, 0.1),
    seed=st.integers(0, 2**32),
)
def test_a_prediction_that_is_off_by_one_at_most_takes_four_trials_at_most(
    card: tuple[int, int, int, int], off: int, noise: float, seed: int
) -> None:
    fixed, per_image, largest, capacity = card
    machine = machine_of(card, noise=noise, seed=seed)
    line = Line(fixed_bytes=fixed, per_image_bytes=per_image)
    expected = Expected(largest=max(1, largest + off), line=line)
    assert_proven(machine, guided(machine, expected, capacity=capacity))
    assert len(machine.probes) <= 4


@given(
    card=cards(),
    expected=st.builds(Expected, largest=st.integers(1, 4096), line=lines),
)
def test_a_wrong_prediction_costs_two_trials_at_most(
    card: tuple[int, int, int, int], expected: Expected
) -> None:
    *_, capacity = card
    with_it, without = machine_of(card), machine_of(card)
    guided(with_it, expected, capacity=capacity)
    search(without, capacity=capacity)
    assert len(with_it.probes) <= len(without.probes) + 2


RISING = Line(fixed_bytes=0.0, per_image_bytes=10.0)
STEEPER = Line(fixed_bytes=-100.0, per_image_bytes=12.0)


@pytest.mark.parametrize(
    ("largest", "peak", "expected", "batches"),
    [
        # 10 an image, as predicted, but 100 more whatever the batch: 10 images fewer of 100.
        (90, lambda batch: 100 + 10 * batch, Expected(largest=100, line=RISING), [50, 90, 91]),
        # 10 an image, as predicted, and 50 less at 50 images, but not at 100.
        (
            100,
            lambda batch: 450 if batch == 50 else 10 * batch,
            Expected(largest=100, line=RISING),
            [50, 105, 100, 101],
        ),
        # The slope is corrected by the second trial.
        (120, lambda batch: 10 * batch, Expected(largest=100, line=STEEPER), [50, 100, 120, 121]),
        # If right: three trials. If far too high: the ordinary search.
        (11, lambda batch: batch, Expected(largest=11, line=None), [5, 11, 12]),
        (3, lambda batch: batch, Expected(largest=100, line=None), [50, 1, 2, 4]),
    ],
)
def test_a_prediction_is_followed_and_corrected_by_what_trials_take(
    largest: int, peak: Callable[[int], int], expected: Expected, batches: list[int]
) -> None:
    machine = Machine(up_to(largest), peak=peak)
    guided(machine, expected, capacity=peak(largest + 1) - 1)
    assert machine.batches[: len(batches)] == batches
    assert len(machine.batches) == len(batches) or largest == 3


def test_a_prediction_obeys_the_largest_batch_that_may_be_tried() -> None:
    for max_batch in (1, 3, 8, 9, 16):
        machine = Machine(up_to(100))
        boundary = guided(
            machine, Expected(largest=16, line=None), capacity=100, max_batch=max_batch
        )
        assert (boundary.stop, boundary.largest) == (StopReason.MAX_BATCH, max_batch)
        assert max(machine.batches) == max_batch


def test_a_model_that_needs_two_images_is_found_with_a_prediction_too() -> None:
    def outcome(batch: int, _: Process) -> Outcome:
        if batch < 2:
            return Outcome.BATCH_TOO_SMALL
        return Outcome.FITS if batch <= 5 else OOM

    for largest in (1, 2, 3, 5, 9):
        machine = Machine(outcome)
        boundary = guided(machine, Expected(largest=largest, line=None), capacity=5)
        assert (boundary.stop, boundary.largest) == (StopReason.PROVEN, 5)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.TIMED_OUT])
def test_a_bug_stops_a_predicted_search_as_any_other(outcome: Outcome) -> None:
    machine = Machine(lambda batch, _: Outcome.FITS if batch < 10 else outcome)
    boundary = guided(machine, Expected(largest=10, line=None), capacity=10)
    assert boundary.stop in (StopReason.FAILED, StopReason.TIME)
    assert boundary.largest == 5


def test_where_the_cache_was_emptied_the_boundary_is_near_and_nothing_is_doubled() -> None:
    def outcome(batch: int, _: Process) -> Outcome:
        if batch > 104:
            return OOM
        return Outcome.FITS_WITH_RETRIES if batch > 80 else Outcome.FITS

    machine = Machine(outcome, peak=lambda batch: min(100, batch))
    expected = Expected(largest=100, line=Line(fixed_bytes=0.0, per_image_bytes=1.0))
    assert_proven(machine, guided(machine, expected, capacity=100))
    assert machine.batches == [50, 100, 101, 102, 103, 105, 104]


@given(
    largest=st.integers(0, 5000),
    guess=st.integers(-10, 6000),
    minimum=st.sampled_from([1, 2]),
)
def test_a_gallop_ends_at_the_boundary_wherever_it_began(
    largest: int, guess: int, minimum: int
) -> None:
    tried: list[int] = []

    def runs(batch: int) -> bool:
        tried.append(batch)
        return batch <= largest

    found = gallop(runs, guess, minimum=minimum, max_batch=4096)
    assert found == (min(largest, 4096) if largest >= minimum else None)
    assert len(set(tried)) == len(tried)
    assert minimum <= min(tried) <= max(tried) <= 4096
    if abs(min(max(guess, minimum), 4096) - min(largest, 4096)) <= 1:
        assert len(tried) <= 4
