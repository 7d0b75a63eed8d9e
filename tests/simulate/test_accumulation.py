"""Additions of gradients, in place or not, as autograd makes them without a mode."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from tests.support.allocations import AsUnwatched

aten = torch.ops.aten
ADDITIONS = {aten.add.Tensor: "aten::add", aten.add_.Tensor: "aten::add_"}
NOW, BEFORE = (2, 6), (1, 13)
Program = Callable[[torch.Tensor], torch.Tensor]


class AddsItself(torch.autograd.Function):
    """A user-supplied backward pass, which adds to a tensor that it still refers to."""

    @staticmethod
    def forward(_: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(_: Any, *gradients: Any) -> Any:
        part = gradients[0] * 2
        return part + gradients[0] * 3


def both_heads(x: torch.Tensor) -> torch.Tensor:
    deviation, mean = torch.std_mean(x, 1)
    return deviation.sum() + mean.sum()


def kept_by_a_hook(x: torch.Tensor) -> torch.Tensor:
    parts = x.sin(), x.cos()
    kept: list[torch.Tensor] = []
    x.register_hook(kept.append)
    parts[0].register_hook(kept.append)
    return (parts[0] + parts[1]).sum()


PROGRAMS: dict[str, Program] = {
    "two operators": lambda x: (x.sin() + x.cos()).sum(),
    "three operators": lambda x: (x.sin() + x.cos() + x.neg()).sum(),
    "one operator, twice": lambda x: (x * x).sum(),
    "a shortcut": lambda x: (x + x.sin()).sin().sum(),
    "a shortcut behind its block": lambda x: (x.sin() + x).sin().sum(),
    "a view first": lambda x: x.view(16).sin().sum() + x.cos().sum(),
    "a view last": lambda x: x.cos().sum() + x.view(16).sin().sum(),
    "transposed twice": lambda x: x.t().sin().sum() + x.t().cos().sum(),
    "an expanded sum": lambda x: x.sum() + x.cos().sum() + x.sum(),
    "a slice of a concatenation": lambda x: torch.cat([x, x.sin()], 1).sin().sum() + x.cos().sum(),
    "the user's own backward pass": lambda x: (AddsItself.apply(x) + AddsItself.apply(x)).sum(),
    "a formula that adds": both_heads,
    "another formula that adds": lambda x: torch.logcumsumexp(x, 1).sum(),
    "a formula that adds, twice": lambda x: both_heads(x) + both_heads(x),
    "kept by a hook": kept_by_a_hook,
}


def graph(program: Program) -> torch.Tensor:
    x = torch.zeros(4, 4, requires_grad=True)
    return program(x * 1)


def names_of(mode: AsUnwatched) -> list[str]:
    return [ADDITIONS[each] for each in mode.called if each in ADDITIONS]


def additions(program: Program, version: tuple[int, int] = NOW) -> list[str]:
    mode = AsUnwatched(version)
    with FakeTensorMode(), mode:
        graph(program).backward()
    return names_of(mode)


def real_additions(program: Program) -> list[str]:
    loss = graph(program)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        loss.backward()
    events = sorted(profile.events(), key=lambda event: event.time_range.start)
    return [event.name for event in events if event.name in ADDITIONS.values()]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_gradients_are_added_in_place_where_autograd_does_so(program: Program) -> None:
    assert additions(program) == real_additions(program) != []


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_before_2_0_no_gradient_is_added_in_place(program: Program) -> None:
    assert set(additions(program, BEFORE)) == {"aten::add"}


def test_gradients_that_have_gradients_are_not_added_in_place() -> None:
    with FakeTensorMode(), AsUnwatched(NOW) as mode:
        x = torch.zeros(4, requires_grad=True)
        torch.autograd.grad((x.sin() + x.cos()).sum(), x, create_graph=True)
    assert names_of(mode) == ["aten::add"]


def test_callbacks_at_the_end_of_a_backward_pass_are_left_as_they_are() -> None:
    sums: list[torch.Tensor] = []

    def ask(_: torch.Tensor) -> None:
        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: sums.append(torch.zeros(4) + torch.zeros(4)))

    with FakeTensorMode(), AsUnwatched(NOW) as mode:
        x = torch.zeros(4, requires_grad=True)
        x.register_hook(ask)
        (x * 1).sum().backward()

    assert len(sums) == 1
    assert names_of(mode) == ["aten::add"]
