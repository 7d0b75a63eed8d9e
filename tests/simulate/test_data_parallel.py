"""The stand-in for DistributedDataParallel allocates what the real one allocates."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined] # documented, but not marked as exported
from torch.nn.parallel import DistributedDataParallel

from bsprobe.simulate.trace.ddp import SimulatedReplica, synchronise_norms
from bsprobe.training.step import Replica
from tests.support.fake_cuda import REAL, Dispatched

_MADE_BY = ("empty", "new_empty", "cat")
_LARGE = 2**14
"""Bytes; what is smaller is counters and indices, which the real one keeps on the host as well."""


@contextmanager
def _births() -> Iterator[list[int]]:
    """The sizes in bytes of what is allocated for a process group, in order."""
    sizes: list[int] = []

    def watch(operator: Any, _: tuple[Any, ...], out: Any) -> None:
        if operator.overloadpacket.__name__ in _MADE_BY:
            size = out.untyped_storage().nbytes()
            sizes.extend([size] if size >= _LARGE else [])

    with Dispatched(watch, REAL):
        yield sizes


class Net(nn.Module):
    """Large enough for several buckets, and used in another order than it is defined in."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(1024, 4096)
        self.frozen = nn.Linear(64, 1024)
        self.frozen.requires_grad_(requires_grad=False)
        self.first = nn.Linear(1024, 1024)
        self.norm = nn.BatchNorm1d(4096)
        self.middle = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.last(self.middle(self.first(self.frozen(x)))))
        return out


@pytest.fixture
def group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def births(make: Callable[[nn.Module], Replica], micro_batches: int) -> list[list[int]]:
    """What the construction, and then each of three steps, allocates for the others."""
    torch.manual_seed(0)
    model, images = Net(), torch.randn(2, 64)
    with _births() as building:
        replica = make(model)
    found = [building]
    for step in range(3):
        with _births() as stepping:
            if step == 1 and isinstance(replica, SimulatedReplica):
                replica.rebuild_buckets()
            for _ in range(micro_batches - 1):
                with replica.no_sync():
                    replica(images).sum().backward()
            replica(images).sum().backward()
        model.zero_grad()
        found.append(stepping)
    return found


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_stand_in_allocates_what_the_real_one_does(micro_batches: int) -> None:
    expected = births(DistributedDataParallel, micro_batches)
    found = births(lambda model: SimulatedReplica(model, lambda _: None), micro_batches)
    assert found == expected
    assert len(expected[2]) > len(expected[3]) > 0, "the second step has made buckets"


def test_a_network_with_parameters_that_get_no_gradient_is_refused_as_torch_does() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    replica = SimulatedReplica(model, lambda _: None)
    model[0](torch.ones(1, 4)).sum().backward()
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        replica.rebuild_buckets()


def test_a_released_network_tells_no_more() -> None:
    model = nn.Linear(4, 4)
    SimulatedReplica(model, lambda _: None).release()
    hooks = [parameter._post_accumulate_grad_hooks for parameter in model.parameters()]
    assert not any(hooks)


def test_synchronised_norms_have_gradients_of_their_shapes_and_evaluate_as_plain_ones() -> None:
    norm = nn.SyncBatchNorm(8)
    plain = norm.eval()(torch.ones(2, 8, 4, 4))
    synchronise_norms(norm, 4)
    assert torch.equal(norm(torch.ones(2, 8, 4, 4)), plain)
    images = torch.ones(2, 8, 4, 4, requires_grad=True)
    norm.train()(images).sum().backward()
    assert images.grad is not None
    assert norm.weight.grad is not None
    assert (images.grad.shape, norm.weight.grad.shape) == ((2, 8, 4, 4), (8,))
