"""Programs that depend on data, on a GPU or on random numbers."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bsprobe.records.assumptions import Assumption
from bsprobe.records.explanations import LOSS
from bsprobe.records.variants import Precision, Variant
from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import Kind, Recording
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.training import step
from tests.support.lasting_networks import AssignsStatistics
from tests.support.particular_programs import (
    LARGE,
    Counts,
    Cycles,
    Draws,
    HasTeacher,
    SharedState,
    SkipsBadGradients,
)
from tests.support.tiny_networks import VARIANT
from tests.support.traced_networks import Build, PlainNet, born, bytes_left, tracer_of

PROGRAMS = "tests.support.particular_programs"
AMP = replace(VARIANT, precision=Precision.AMP_FP16)
Make = Callable[[nn.Module], torch.optim.Optimizer]


def with_loss(loss: str, variant: Variant = VARIANT) -> StepTracer:
    return tracer_of(PlainNet, replace(variant, own=OwnParts(loss=f"{PROGRAMS}:{loss}")))


def with_optimizer(
    make: Make, monkeypatch: pytest.MonkeyPatch, build: Build = PlainNet
) -> StepTracer:
    monkeypatch.setattr(step, "own_optimizer", lambda _, model: make(model))
    return tracer_of(build, replace(VARIANT, own=OwnParts(optimizer="of:a_test")))


def state_bytes(tracer: StepTracer) -> int:
    return bytes_left(tracer.record(2))[Kind.OPTIMIZER_STATE]


def sizes(recording: Recording) -> list[int]:
    return [size for _, _, size in born(recording)]


@pytest.mark.parametrize("loss", ["two_questions_in_a_line", "one_question_from_two_places"])
def test_each_condition_is_answered_separately(loss: str) -> None:
    tracer = with_loss(loss)
    assert 4 * LARGE in sizes(tracer.record(2))
    assert tracer.facts.assumptions == (Assumption.LARGEST_BRANCH,)


def test_an_optimizer_that_may_skip_an_update_keeps_its_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    skipping = with_optimizer(lambda m: SkipsBadGradients(m.parameters()), monkeypatch)
    assert state_bytes(skipping) == 2 * (864 + 32 + 128 + 16)


@pytest.mark.parametrize(
    "settings",
    [{"lr": torch.tensor(1e-3)}, {"capturable": True}, {"foreach": False}, {"fused": True}],
)
def test_settings_of_adam_are_traced(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = 2 * (864 + 32 + 128 + 16)
    tracer = with_optimizer(lambda m: torch.optim.AdamW(m.parameters(), **settings), monkeypatch)
    counts = 4 * 4 if settings.keys() & {"capturable", "fused"} else 0  # on the device
    assert state_bytes(tracer) == moments + counts


def test_state_that_all_parameters_share_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_bytes(with_optimizer(lambda m: SharedState(m.parameters()), monkeypatch)) == 16


def test_a_scheduler_is_not_taken_for_a_closure(monkeypatch: pytest.MonkeyPatch) -> None:
    def scheduled(model: nn.Module) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        model.schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, 100)  # type: ignore[assignment] # an attribute
        return optimizer

    assert state_bytes(with_optimizer(scheduled, monkeypatch)) == 864 + 32 + 128 + 16


def test_an_average_of_the_weights_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def averaged(model: nn.Module) -> torch.optim.Optimizer:
        average = AveragedModel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
        return optimizer

    left = bytes_left(with_optimizer(averaged, monkeypatch).record(2))
    alone = bytes_left(tracer_of(PlainNet).record(2))
    weights = 864 + 32 + 128 + 16
    assert sum(left.values()) - sum(alone.values()) == pytest.approx(weights - weights, abs=16)


def test_a_teacher_is_a_copy_with_its_own_weights() -> None:
    alone, taught = (bytes_left(tracer_of(each).record(2)) for each in (PlainNet, HasTeacher))
    assert taught[Kind.BUFFER] - alone[Kind.BUFFER] == 864 + 32 + 128 + 16


def test_every_recording_begins_with_a_new_network() -> None:
    tracer = tracer_of(Counts)
    assert [4 * LARGE in sizes(tracer.record(batch)) for batch in (1, 2, 3, 2)] == [False] * 4

    assigning = tracer_of(AssignsStatistics)
    assert assigning.record(2) == assigning.record(2)


def test_random_numbers_are_the_same_in_every_recording() -> None:
    state = random.getstate()
    one, other = tracer_of(Draws), tracer_of(Draws)
    assert len(one.timeline(3).traced_at) == 2
    assert one.record(2) == other.record(2)
    assert random.getstate() == state


def test_cycles_of_references_do_not_count_as_growth() -> None:
    tracer = tracer_of(Cycles)
    tracer.record(2)
    assert tracer.facts.assumptions == ()


def test_autocast_that_is_disabled_for_the_gpu_is_disabled() -> None:
    recording = with_loss("an_island_of_fp32", AMP).record(2)
    (convolution,) = [
        size
        for place, _, size in born(recording)
        if (place.operator, place.module) == ("convolution", LOSS)
    ]
    assert convolution == 2 * 2 * 8 * 12 * 4  # two channels of fp32


def test_calls_that_take_no_memory_change_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    tracer = with_loss("says_what_it_does")
    tracer.record(2)
    assert tracer.facts.assumptions == ()
    assert "nan" in capsys.readouterr().out


def test_parameters_that_are_updated_in_the_backward_pass_are_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def at_once(model: nn.Module) -> torch.optim.Optimizer:
        def update(parameter: torch.Tensor) -> None:
            parameter.grad = None

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(update)
        return torch.optim.SGD(model.parameters(), lr=0.1)

    tracer = with_optimizer(at_once, monkeypatch)
    tracer.record(2)
    assert tracer.facts.parameters_without_gradient == 0
