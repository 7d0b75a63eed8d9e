"""Memory inside loss kernels, from PyTorch's source and from real CPU tensors."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._pytree import tree_leaves, tree_map_only

from bsprobe.simulate.cuda import Inside, cuda_dispatch, effects
from bsprobe.simulate.cuda.scratch import aten
from bsprobe.simulate.versions import INSTALLED, Version
from tests.support.allocations import plainly
from tests.support.operator_examples import operators, samples_of
from tests.support.traced_networks import born, extra, tracer_of

X = torch.rand(2, 3, 40, 50)
Y = torch.rand(2, 3, 40, 50)
SIZE = 4 * X.numel()
NONE, MEAN = 0, 1
Loss = Callable[..., torch.Tensor]
KEPT: dict[Any, Loss] = {
    aten.mse_loss.default: functional.mse_loss,
    aten.smooth_l1_loss.default: functional.smooth_l1_loss,
    aten.soft_margin_loss.default: functional.soft_margin_loss,
    aten.binary_cross_entropy.default: functional.binary_cross_entropy,
}
LOSSES = KEPT | {aten.huber_loss.default: functional.huber_loss}


def inside(operator: Any, *args: Any, out: Any, version: Version = INSTALLED) -> list[int]:
    """Sizes of an operator's temporary memory."""
    found = [each for each in effects(operator, args, out, version) if isinstance(each, Inside)]
    return [size for each in found for size in each.sizes]


def peak(program: Callable[[], object]) -> int:
    """Peak of a program's real memory, as a multiple of the inputs' size."""
    return max(accumulate(plainly(program))) // SIZE


def smallest(loss: torch.Tensor) -> torch.Tensor:
    """A reduced loss as in the trace, without the memory of the elementwise loss."""
    return torch.zeros(()) if loss.dim() == 0 else loss


@pytest.mark.parametrize("operator", LOSSES, ids=str)
def test_a_reduced_loss_takes_and_keeps_the_same_memory_as_on_the_cpu(operator: Any) -> None:
    loss = LOSSES[operator]
    out = smallest(loss(X, Y))
    taken = inside(operator, X, Y, out=out)
    kept = out.untyped_storage().nbytes()
    assert kept == loss(X, Y).untyped_storage().nbytes()
    assert (sum(taken) + kept) // SIZE == peak(lambda: loss(X, Y))


@pytest.mark.parametrize("operator", LOSSES, ids=str)
def test_a_loss_that_is_not_reduced_takes_nothing_else(operator: Any) -> None:
    out = LOSSES[operator](X, Y, reduction="none")
    args = (X, Y, *((None,) if operator is aten.binary_cross_entropy.default else ()), NONE)
    assert list(effects(operator, args, out)) == [out]
    assert out.untyped_storage().nbytes() == SIZE


def test_the_trace_has_the_memory_that_a_loss_keeps() -> None:
    build = extra(lambda x: x + functional.mse_loss(x, torch.zeros_like(x)))
    sizes = {place.operator: size for place, _, size in born(tracer_of(build).record(2))}
    assert sizes["mse_loss"] == sizes["zeros_like"]


def test_a_loss_of_logits_takes_log_sigmoid_and_if_reduced_the_elementwise_loss() -> None:
    operator = aten.binary_cross_entropy_with_logits.default
    loss = functional.binary_cross_entropy_with_logits
    assert inside(operator, X, Y, out=loss(X, Y)) == [SIZE, SIZE]
    each = loss(X, Y, reduction="none")
    assert inside(operator, X, Y, None, None, NONE, out=each) == [SIZE]
    # The CPU's log_sigmoid also has a buffer, freed before the elementwise loss is allocated.
    assert peak(lambda: loss(X, Y)) == 2


def test_autocast_refuses_the_loss_of_probabilities_and_runs_that_of_logits_in_fp32() -> None:
    x = X.half()
    with cuda_dispatch(), torch.autocast("cpu", dtype=torch.float16):
        with pytest.raises(RuntimeError, match="unsafe to autocast"):
            functional.binary_cross_entropy(x, Y)
        assert functional.binary_cross_entropy_with_logits(x, Y).dtype is torch.float32
    assert functional.binary_cross_entropy(X, Y) > 0


def test_until_2_2_a_loss_of_logits_takes_four_tensors_beside_the_elementwise_loss() -> None:
    operator = aten.binary_cross_entropy_with_logits.default
    mean, each = X.mean(), X.clone()
    assert inside(operator, X, Y, out=mean, version=(2, 2)) == [SIZE] * 5
    assert inside(operator, X, Y, None, None, NONE, out=each, version=(2, 2)) == [SIZE] * 4
    assert inside(operator, X, Y, None, Y, MEAN, out=mean, version=(2, 2)) == [SIZE] * 6
    assert inside(operator, X, Y, out=mean, version=(2, 3)) == [SIZE] * 2


def held(results: object) -> list[int]:
    """Bytes of the tensors' storages."""
    tensors = (each for each in tree_leaves(results) if isinstance(each, torch.Tensor))
    return [each.untyped_storage().nbytes() for each in tensors if each.layout is torch.strided]


def holds_more(operator: Any) -> bool:
    """True for an operator whose results hold more memory on real tensors than on fake ones."""
    for sample in samples_of(operator, requires_grad=False):
        given = (sample.input, sample.args, sample.kwargs)
        mode = FakeTensorMode()
        fake = tree_map_only(torch.Tensor, mode.from_tensor, given)
        try:
            with mode:
                expected = held(operator.op(fake[0], *fake[1], **fake[2]))
            found = held(operator.op(given[0], *given[1], **given[2]))
        except Exception:  # noqa: BLE001, S112 - operators that fake tensors cannot run
            continue
        if any(real > least for real, least in zip(found, expected, strict=True)):
            return True
    return False


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_no_other_operator_keeps_more_memory_than_its_results_need() -> None:
    names = {each.name.removeprefix("nn.functional.") for each in operators() if holds_more(each)}
    assert names == {operator.overloadpacket.__name__ for operator in KEPT}
