"""The predicted state of every optimizer of PyTorch and timm is as large as the real one."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from unittest import mock

import pytest
import torch
from timm.optim._optim_factory import create_optimizer_v2, list_optimizers
from torch import nn

from bsprobe.records.workload import OwnParts
from bsprobe.simulate.timeline import Kind
from bsprobe.training import step
from tests.support.tiny_networks import VARIANT, TinyNet
from tests.support.traced_networks import bytes_left, tracer_of

Make = Callable[[nn.Module], torch.optim.Optimizer]
OWN = OwnParts(optimizer="of:a_test")
_REAL_STEPS = 12
_ON_HOST = ("step", "mu_product")
"""States that PyTorch's optimizers keep on the host unless they are capturable."""
REFUSED = {
    "torch.LBFGS": "its step needs a closure, and the number of calls depends on values",
    "torch.Muon": "weights of convolutions are not 2-D",
    "torch.SparseAdam": "gradients of convolutions are dense",
    "timm.adahessian": "the backward pass must leave a graph for second derivatives",
}
"""Optimizers that cannot train this convolutional network, with the reason."""
NEEDS_CUDA = ("timm.bnb", "timm.fused")
"""Optimizers of bitsandbytes and apex, which need CUDA."""


def _of_torch(name: str, model: nn.Module) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
    return made


def _of_timm(name: str, model: nn.Module) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = create_optimizer_v2(model, opt=name, lr=0.01)
    return made


TORCH = {
    f"torch.{name}": partial(_of_torch, name)
    for name, each in vars(torch.optim).items()
    if isinstance(each, type) and issubclass(each, torch.optim.Optimizer) and name != "Optimizer"
}
TIMM = {
    f"timm.{name}": partial(_of_timm, name)
    for name in (*map(str, list_optimizers()), "lookahead_sgd", "lookahead_adam")
    if not f"timm.{name}".startswith(NEEDS_CUDA)
}
EVERY_DAY = (
    "timm.adafactor",
    "timm.laprop",
    "timm.lookahead_sgd",
    "timm.novograd",
    "timm.radamlegacy",
)
"""Optimizers of timm that differ most: states are reassigned, made late, or device scalars."""


def _marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    if name in TORCH or name in EVERY_DAY:
        return ()
    return (pytest.mark.nightly,)  # half a minute in total


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Disable warnings, and the compiler that some optimizers call."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        yield


def real_bytes(make: Make) -> int:
    """Return the bytes of an optimizer's device state after real steps on the CPU."""
    torch.manual_seed(0)
    model = TinyNet(VARIANT)
    optimizer = make(model)
    for _ in range(_REAL_STEPS):
        model(torch.randn(2, 3, 32, 48)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    optimizer = getattr(optimizer, "_base_optimizer", optimizer)  # Lookahead's
    storages = {
        value.untyped_storage()._cdata: value.untyped_storage().nbytes()
        for state in optimizer.state.values()
        for name, held in state.items()
        for value in (held if isinstance(held, list | tuple) else (held,))
        if torch.is_tensor(value) and name not in _ON_HOST
    }
    return sum(storages.values())


def predicted_bytes(make: Make) -> int:
    with mock.patch.object(step, "own_optimizer", lambda _, model: make(model)):
        tracer = tracer_of(TinyNet, replace(VARIANT, own=OWN))
        return bytes_left(tracer.record(2))[Kind.OPTIMIZER_STATE]


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_marks(name)) for name in (*TORCH, *TIMM) if name not in REFUSED],
)
def test_the_state_is_as_large_as_that_of_real_steps(name: str) -> None:
    make = (TORCH | TIMM)[name]
    assert predicted_bytes(make) == real_bytes(make)


@pytest.mark.parametrize("name", [name for name in REFUSED if name in TORCH | TIMM])
def test_unsupported_optimizers_fail_in_real_steps_too(name: str) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        real_bytes((TORCH | TIMM)[name])
