"""Memory of data-parallel training on a card: buckets, broadcasts, synchronised statistics.

`DistributedDataParallel` cannot run without its other processes, so `SimulatedReplica` makes the
same allocations. tests/simulate/test_data_parallel.py compares the two, allocation by allocation,
in a process group of one. Sources: torch/nn/parallel/distributed.py,
torch/csrc/distributed/c10d/reducer.cpp, comm.cpp, and torch/nn/modules/_functions.py for
SyncBatchNorm; unchanged from PyTorch 2.6 to 2.15.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from bsprobe.records.trials import Ddp
from bsprobe.records.units import MIB

_FIRST_BUCKET_BYTES = 1 * MIB
"""`kDefaultFirstBucketBytes` in reducer.hpp: small, so that the first average starts early."""
_BUCKET_BYTES = 25 * MIB
"""The default of `bucket_cap_mb`."""
_LIMITS = (_FIRST_BUCKET_BYTES, _BUCKET_BYTES)
_BROADCAST_BYTES = 250 * MIB
"""`DistributedDataParallel.broadcast_bucket_size`."""
_IN_FLIGHT = 2
"""`max_in_flight` in `broadcast_coalesced`, comm.cpp."""

OnBucket = Callable[[torch.Tensor], None]


class SimulatedReplica:
    """`DistributedDataParallel` without communication.

    Gradients live beside the buckets that they are copied to (`gradient_as_bucket_view=False`).
    One bucket holds all gradients until the first backward pass has shown the order in which they
    become ready (`_BucketCapacityConfig`, or `_ddp_init_helper` in older versions). With
    `find_unused_parameters`, buckets follow the order of the network and are never rebuilt
    (`should_rebuild_buckets` in reducer.hpp).

    Args:
        model: The network, on its device.
        on_bucket: Called with every bucket.
        ddp: The treatment of parameters without a gradient.
    """

    def __init__(self, model: nn.Module, on_bucket: OnBucket, *, ddp: Ddp = Ddp.DEFAULT) -> None:
        self._model = model
        self._on_bucket = on_bucket
        self._ddp = ddp
        self._copies_outputs = ddp is not Ddp.DEFAULT
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._ready: dict[int, None] = {}
        self._is_rebuilt = False
        self._averages = True
        self._sends_buffers = True
        states = [*model.parameters(), *model.buffers()]
        _broadcast([state.detach() for state in states])
        limits = _LIMITS if ddp is Ddp.FIND_UNUSED_PARAMETERS else [sys.maxsize]
        indices = _assigned(self._parameters, limits)
        self._buckets = self._new_buckets(reversed(indices))
        if ddp is not Ddp.DEFAULT:
            self._buckets.append(self._map_of_used())
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(functools.partial(self._note, index))
            for index, parameter in enumerate(self._parameters)
        ]

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Receive the buffers of rank 0, then run the forward pass."""
        if self._sends_buffers:
            _broadcast(list(self._model.buffers()))
        outputs = self._model(*inputs, **named)
        self._sends_buffers = self._averages
        return self._sunk(outputs) if self._copies_outputs else outputs

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Do not average gradients, nor receive buffers before the next forward pass."""
        self._averages = False
        try:
            yield
        finally:
            self._averages = True

    def rebuild_buckets(self) -> None:
        """Make new buckets in the order in which gradients became ready.

        The reducer does this at the beginning of the second step, with a static graph of the
        third, and never with `find_unused_parameters`.

        Raises:
            RuntimeError: A parameter has no gradient, which DistributedDataParallel rejects by
                default.
        """
        if self._ddp is Ddp.FIND_UNUSED_PARAMETERS:
            return
        unused = [index for index in range(len(self._parameters)) if index not in self._ready]
        if unused and self._ddp is Ddp.DEFAULT:
            raise RuntimeError(
                "Expected to have finished reduction in the prior iteration: "
                f"{len(unused)} parameters had no gradient"
            )
        order = [*self._ready, *unused]  # `mark_variable_ready` adds the unused ones at the end
        parameters = [self._parameters[index] for index in order]
        indices = _assigned(parameters, _LIMITS, order)
        # `sync_bucket_indices`: all processes must have the same ones.
        count = sum(len(each) for each in indices) + 1
        device = self._parameters[0].device
        sent = [torch.empty(n, dtype=torch.int32, device=device) for n in (count, len(indices))]
        del sent
        used = self._buckets[-1:] if self._ddp is Ddp.STATIC_GRAPH else []
        self._buckets.clear()
        self._buckets = [*self._new_buckets(indices), *used]
        self._is_rebuilt = True

    def release(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()

    def _note(self, index: int, _: torch.Tensor) -> None:
        if self._averages and not self._is_rebuilt:
            self._ready.pop(index, None)  # the last step counts, and in it the last gradient
            self._ready[index] = None

    def _map_of_used(self) -> torch.Tensor:
        """Allocate a number for each parameter, as `Reducer::initialize_local_used_map` does."""
        used = self._parameters[0].detach().new_empty(len(self._parameters), dtype=torch.int32)
        self._on_bucket(used)
        return used

    def _sunk(self, outputs: Any) -> Any:
        """Copy outputs that have a gradient: `_DDPSink` and `_post_forward` in distributed.py.

        The copies detect the beginning of the backward pass. A static graph needs them only in
        its first step.
        """
        leaves, structure = pytree.tree_flatten(outputs)
        copies = _Sink.apply(self._sink_reached, *leaves)
        kept = [
            leaf if torch.is_tensor(leaf) and leaf.grad_fn is None else copy
            for leaf, copy in zip(leaves, copies, strict=True)
        ]
        return pytree.tree_unflatten(kept, structure)

    def _sink_reached(self) -> None:
        if self._ddp is Ddp.STATIC_GRAPH:
            self._copies_outputs = False

    def _new_buckets(self, indices: Iterator[list[int]] | Sequence[list[int]]) -> list[Any]:
        """Allocate a flat tensor for each bucket, as `Reducer::initialize_buckets` does."""
        buckets = []
        for bucket in indices:
            members = [self._parameters[index] for index in bucket]
            flat = members[0].detach().new_empty(sum(each.numel() for each in members))
            self._on_bucket(flat)
            buckets.append(flat)
        return buckets


class _Sink(torch.autograd.Function):
    """Copies the outputs of a network and passes on their gradients."""

    @staticmethod
    def forward(ctx: Any, on_backward: Callable[[], None], *outputs: Any) -> tuple[Any, ...]:
        """Return the copies."""
        ctx.set_materialize_grads(False)
        ctx.on_backward = on_backward
        return tuple(each.clone() if torch.is_tensor(each) else each for each in outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients unchanged."""
        ctx.on_backward()
        return (None, *grads)


def _assigned(
    tensors: Sequence[torch.Tensor], limits: Sequence[int], order: Sequence[int] = ()
) -> list[list[int]]:
    """Return the indices of the tensors of each bucket, by PyTorch's own assignment."""
    from torch.distributed import (  # type: ignore[attr-defined] # no public name  # noqa: PLC0415 - not every build has it
        _compute_bucket_assignment_by_size,
    )

    if not tensors:
        return []
    indices, _ = _compute_bucket_assignment_by_size(list(tensors), list(limits), [], list(order))
    return [list(each) for each in indices]


def _broadcast(tensors: Sequence[torch.Tensor]) -> None:
    """Allocate the flat copies of `broadcast_coalesced`, at most two at a time."""
    in_flight: list[torch.Tensor] = []
    for bucket in _assigned(tensors, [_BROADCAST_BYTES]):
        if len(in_flight) == _IN_FLIGHT:
            del in_flight[0]
        in_flight.append(_flattened([tensors[index] for index in bucket]))


def _flattened(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Flatten tensors as torch/csrc/utils/tensor_flatten.h does: a single one is not copied."""
    if len(tensors) == 1:
        return tensors[0].reshape(-1)
    return torch.cat([tensor.contiguous().view(-1) for tensor in tensors])


def synchronise_norms(model: nn.Module, processes: int) -> None:
    """Make the SyncBatchNorms of a network allocate as in a group of this many processes."""
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.forward = functools.partial(  # type: ignore[method-assign] # of this instance only
                _sync_batch_norm, module, module.forward, processes
            )


def _sync_batch_norm(
    module: nn.SyncBatchNorm,
    alone: Callable[[torch.Tensor], torch.Tensor],
    processes: int,
    x: torch.Tensor,
) -> torch.Tensor:
    if not module.training:
        return alone(x)
    out: torch.Tensor = _SyncBatchNorm.apply(x, module.weight, module.bias, processes)
    return out


class _SyncBatchNorm(torch.autograd.Function):
    """The tensors of `torch.nn.modules._functions.SyncBatchNorm` over NCCL, without values.

    Statistics are fp32 for every input type. The staging buffers of its kernels for channels-last
    maps, some KiB for each layer, are left out.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, processes: int
    ) -> torch.Tensor:
        """Allocate local, gathered and common statistics, and the output."""
        del bias
        x = _dense(x)
        new = functools.partial(x.new_empty, dtype=torch.float32)
        channels = x.shape[1]
        mean, deviation, count = new(channels), new(channels), new(1)
        combined = new(2 * channels + 1)
        gathered = new((1, processes * (2 * channels + 1)))
        del combined
        mask = x.new_empty(processes, dtype=torch.bool)
        counts = new((processes, 1))
        means, deviations = new((processes, channels)), new((processes, channels))
        common, common_deviation = new(channels), new(channels)
        del mean, deviation
        as_integers = counts.to(torch.int32)
        ctx.save_for_backward(x, weight, common, common_deviation, as_integers)
        out = torch.empty_like(x)
        del count, gathered, mask, means, deviations
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Allocate local sums, affine gradients, gathered sums and the input's gradient."""
        grad = _dense(grads[0])
        x, weight, *_ = ctx.saved_tensors
        new = functools.partial(x.new_empty, dtype=torch.float32)
        channels = x.shape[1]
        sums, products = new(channels), new(channels)
        grad_weight, grad_bias = torch.empty_like(weight), torch.empty_like(weight)
        combined = new(2 * channels)
        del sums, products
        grad_input = torch.empty_like(grad)
        del combined
        return grad_input, grad_weight, grad_bias, None


def _dense(x: torch.Tensor) -> torch.Tensor:
    is_channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)  # noqa: PLR2004 - NCHW
    return x if is_channels_last else x.contiguous()
