"""`SimulatedReplica` allocates the same as DistributedDataParallel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import HashStore  # type: ignore[attr-defined] # documented, but not marked as exported
from torch.nn.parallel import DistributedDataParallel

from bsprobe.records.errors import UsageError
from bsprobe.records.trials import Ddp
from bsprobe.records.units import Resolution
from bsprobe.records.variants import Variant
from bsprobe.simulate.timeline import Action, Section
from bsprobe.simulate.trace.ddp import SimulatedReplica, synchronise_norms
from bsprobe.simulate.trace.tracer import StepTracer
from bsprobe.training.step import Replica
from tests.support.fake_cuda import REAL, Dispatched

_MADE_BY = ("empty", "new_empty", "cat", "clone")
_LARGE = 2**14
"""Bytes; smaller tensors are counters and indices, which the real one also keeps on the host."""


@contextmanager
def _births() -> Iterator[list[int]]:
    """Collect the sizes in bytes of the allocations for a process group, in order."""
    sizes: list[int] = []

    def watch(operator: Any, _: tuple[Any, ...], out: Any) -> None:
        if operator.overloadpacket.__name__ in _MADE_BY:
            size = out.untyped_storage().nbytes()
            sizes.extend([size] if size >= _LARGE else [])

    with Dispatched(watch, REAL):
        yield sizes


class Net(nn.Module):
    """A network for several buckets, whose modules run in another order than they are defined in.

    Args:
        is_used_up: True if all parameters get a gradient.
    """

    def __init__(self, *, is_used_up: bool) -> None:
        super().__init__()
        self.unused = nn.Identity() if is_used_up else nn.Linear(1024, 2048)
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


def births(
    make: Callable[[nn.Module], Replica], micro_batches: int, ddp: Ddp = Ddp.DEFAULT
) -> list[list[int]]:
    """Return the allocations for communication in the construction and in each of four steps."""
    torch.manual_seed(0)
    model, images = Net(is_used_up=ddp is Ddp.DEFAULT), torch.randn(2, 64)
    rebuilt = 2 if ddp is Ddp.STATIC_GRAPH else 1
    with _births() as building:
        replica = make(model)
    found = [building]
    for step in range(4):
        with _births() as stepping:
            if step == rebuilt and isinstance(replica, SimulatedReplica):
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
def test_a_simulated_replica_allocates_as_the_real_one(micro_batches: int) -> None:
    expected = births(DistributedDataParallel, micro_batches)
    found = births(lambda model: SimulatedReplica(model, lambda _: None), micro_batches)
    assert found == expected
    assert len(expected[2]) > len(expected[3]) > 0, "the second step makes new buckets"


@pytest.mark.usefixtures("group_of_one")
@pytest.mark.parametrize(
    ("ddp", "micro_batches"),
    [
        (Ddp.FIND_UNUSED_PARAMETERS, 1),
        (Ddp.FIND_UNUSED_PARAMETERS, 3),
        (Ddp.STATIC_GRAPH, 1),
    ],
)
def test_with_unused_parameters_it_allocates_as_the_real_one(ddp: Ddp, micro_batches: int) -> None:
    real = partial(
        DistributedDataParallel,
        find_unused_parameters=ddp is Ddp.FIND_UNUSED_PARAMETERS,
        static_graph=ddp is Ddp.STATIC_GRAPH,
    )
    found = births(
        lambda model: SimulatedReplica(model, lambda _: None, ddp=ddp), micro_batches, ddp
    )
    assert found == births(real, micro_batches, ddp)
    has_rebuilt = [len(step) > len(found[4]) for step in found[2:]]
    assert has_rebuilt == [False, ddp is Ddp.STATIC_GRAPH, False]


@pytest.mark.usefixtures("group_of_one")
def test_a_static_graph_accumulates_nothing_in_its_first_step() -> None:
    model = nn.Linear(4, 4)
    replica = DistributedDataParallel(model, static_graph=True)
    with replica.no_sync(), pytest.raises(RuntimeError, match="expect_autograd_hooks_"):
        replica(torch.ones(1, 4)).sum().backward()


def test_a_network_with_parameters_that_get_no_gradient_is_refused_as_torch_does() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    replica = SimulatedReplica(model, lambda _: None)
    model[0](torch.ones(1, 4)).sum().backward()
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        replica.rebuild_buckets()


def test_a_released_network_has_no_hooks() -> None:
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


UNUSED = Variant(
    model="tests.support.networks_without_gradients:Unused",
    resolution=Resolution(height=32, width=32),
    classes=5,
)


def test_a_prediction_with_unused_parameters_is_refused_by_default() -> None:
    with pytest.raises(UsageError, match=r"unused\.bias, sometimes"):
        StepTracer(UNUSED, processes=2).record(2)


@pytest.mark.parametrize("ddp", [Ddp.FIND_UNUSED_PARAMETERS, Ddp.STATIC_GRAPH])
def test_a_prediction_copies_the_outputs_in_all_steps_or_in_the_first(ddp: Ddp) -> None:
    found = StepTracer(UNUSED, processes=2, ddp=ddp).record(2)
    logits = 2 * 5 * 32 * 32 * 4
    steps = (Section.FIRST_STEP, Section.LATER_STEP)
    counts = []
    for step in steps:
        born = [index for action, index in found.sections[step] if action is Action.ALLOCATE]
        copies = [found.storages[index] for index in born]
        counts.append(sum((at.operator, size) == ("clone", logits) for at, _, size in copies))
    assert counts == [1, 1 if ddp is Ddp.FIND_UNUSED_PARAMETERS else 0]
