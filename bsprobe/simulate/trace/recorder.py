"""Recording of the memory that a program allocates and frees on fake tensors."""

import functools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bsprobe.simulate.cuda import Held, Inside, effects
from bsprobe.simulate.timeline import (
    Action,
    Event,
    Handover,
    Kind,
    Phase,
    Place,
    RecordedScratch,
    RecordedStorage,
    Recording,
    Section,
)
from bsprobe.simulate.trace.data_dependence import Decisions
from bsprobe.simulate.trace.fake_kernels import is_composite, only_writes, storage_of
from bsprobe.simulate.trace.kept_inputs import KeptInputs
from bsprobe.simulate.trace.modules import ModuleTracker
from bsprobe.simulate.trace.named_device import named_device, names_gpu, with_device
from bsprobe.simulate.trace.optimizer_state import state_of
from bsprobe.simulate.trace.repetition import (
    bytes_after,
    handed_on,
    handovers,
    in_canonical_order,
    largest_step,
    with_handovers,
)
from bsprobe.simulate.trace.start_over import Renewed
from bsprobe.simulate.trace.unwatched import Unwatched
from bsprobe.simulate.trace.values import Values
from bsprobe.simulate.versions import INSTALLED, Version

_aten = torch.ops.aten
_READ = _aten._local_scalar_dense.default  # noqa: SLF001 - no public name, here and below
_CAST = _aten._to_copy.default  # noqa: SLF001
_DEVICE = torch.ops.prim.device.default
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd  # noqa: SLF001
_FROM_HOST = "lift_fresh"
"""The operator of `torch.tensor`; optimizers make scalars on the host with it."""
_OF_STEP = (Kind.SAVED_ACTIVATION, Kind.TEMPORARY)
_graph_task = torch._C._current_graph_task_id  # noqa: SLF001


class Recorder(TorchDispatchMode):
    """Records every operator that runs while it watches, and the end of every storage.

    Args:
        model: The network whose modules name the places.
        mode: The mode of the fake tensors.
        after: The recorder of the set-up, to continue from.
        renewed: Storages that replace some of those that `after` has recorded.
        decisions: The answers to conditions on values.
        version: The PyTorch version to simulate.
    """

    def __init__(
        self,
        model: nn.Module,
        mode: FakeTensorMode,
        *,
        after: "Recorder | None" = None,
        renewed: Renewed = MappingProxyType({}),
        decisions: Decisions | None = None,
        version: Version = INSTALLED,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # PyTorch's
        self._model = model
        self._mode = mode
        self._modules = ModuleTracker(model)
        self._values = Values(decisions or Decisions(), self._modules.current)
        self._version = version
        self._unwatched = Unwatched(version)
        self._kept_inputs = KeptInputs(version)
        self._live: dict[int, int] = {}
        self._deaths: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._storages: list[RecordedStorage] = []
        self._on_host: set[int] = set()
        self._scratches: list[RecordedScratch] = []
        self._events: list[Event] = []
        self._sections: dict[Section, tuple[Event, ...]] = {}
        self._steps: list[tuple[Event, ...]] = []
        self._phase = Phase.SETUP
        self._is_updating = False
        if after is not None:
            self._go_on_from(after, renewed)

    def __deepcopy__(self, _: object) -> "Recorder":
        """Return the recorder itself: copies of a network, such as averaged weights, share it."""
        return self

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the operators that run; can be entered again to continue.

        Raises:
            UntraceableModelError: The program depends on unknown values.
        """
        with (
            self._modules.watching(self._before_forward),
            self._values.answering(),
            named_device(),
            self,
        ):
            try:
                yield
            except RuntimeError as error:
                self._values.explain(error)
                raise

    def adopt(
        self,
        tensor: torch.Tensor,
        kind: Kind,
        module: str = "",
        value: torch.Tensor | None = None,
    ) -> None:
        """Set the kind of a tensor, and record its allocation if no operator made it.

        Args:
            tensor: The fake tensor.
            kind: Its kind.
            module: The dotted path of its module.
            value: The real tensor, if its value may be read.
        """
        if value is not None:
            self._values.known.remember(tensor, value)
        self._born(tensor, Place(phase=self._phase, module=module, operator="to"), kind)
        self._mark((tensor,), kind)

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Mark gradients and optimizer state at the steps of an optimizer."""
        self._mark_state(optimizer)
        optimizer.register_step_pre_hook(self._before_update)
        optimizer.register_step_post_hook(self._after_update)

    def mark_scaler(self, scaler: torch.amp.GradScaler) -> None:
        """Mark the tensors that a scaler made in the forward pass as optimizer state."""
        if scaler.is_enabled():
            kept = (scaler._scale, scaler._growth_tracker)  # noqa: SLF001 - no public names
            self._mark((each for each in kept if each is not None), Kind.OPTIMIZER_STATE)

    def mark_outputs(self, kept: object) -> None:
        """Mark tensors that the step made and the loop keeps as outputs."""
        for tensor in tree_leaves(kept):
            index = self._live.get(storage_of(tensor)) if torch.is_tensor(tensor) else None
            if index is not None and self._storages[index][1] in _OF_STEP:
                self._mark((tensor,), Kind.OUTPUT)

    def begin(self, phase: Phase) -> None:
        """Begin a phase; the change from forward to backward to optimizer is detected."""
        self._phase = phase

    def end(self, section: Section) -> None:
        """End a section, which holds all events since the last one."""
        self._sections[section] = self._taken()

    def end_step(self) -> None:
        """End a step, which holds all events since the last one, or since the set-up."""
        self._steps.append(self._taken())

    @property
    def are_largest_sizes(self) -> bool:
        """True if a size depends on values, and the largest was taken."""
        return self._values.are_largest_sizes

    @property
    def repeats(self) -> bool:
        """True if the last step can be played again."""
        return len(self._steps) > 1 and handovers(self._steps, self._storages) is not None

    @property
    def largest_step(self) -> int:
        """The number, from 1, of the last step that took more memory than all before it."""
        return largest_step(self._steps, self._storages)

    @property
    def bytes_after_steps(self) -> list[int]:
        """The bytes of tensors after each step."""
        return bytes_after(self._steps, self._storages)

    def _taken(self) -> tuple[Event, ...]:
        events, self._events = self._events, []
        on_device = (
            event for event in events if event[0] is Action.SCRATCH or event[1] not in self._on_host
        )
        return in_canonical_order(on_device)

    def recording(self, batch: int) -> Recording:
        """Return the recording, without storages on the host."""
        first, *settling, _ = self._steps
        handed, last = with_handovers(self._steps, self._storages)
        self._mark_what_stays(handed)
        between = tuple(event for step in settling for event in step)
        sections = {
            Section.SETUP: self._sections[Section.SETUP],
            Section.FIRST_STEP: first,
            **({Section.SETTLING_STEPS: between} if settling else {}),
            Section.LATER_STEP: last,
        }
        if Section.VALIDATION in self._sections:
            sections[Section.VALIDATION] = handed_on(self._sections[Section.VALIDATION], handed)
        return Recording(
            batch=batch,
            storages=tuple(self._storages),
            scratches=tuple(self._scratches),
            sections=sections,
            handovers=handed,
            settling=tuple(map(len, settling)),
        )

    def _mark_what_stays(self, handed: Sequence[Handover]) -> None:
        """Mark storages that outlive the steps as optimizer state or as buffers."""
        stays = {*self._live.values(), *(subject for pair in handed for subject in pair)}
        for index in stays:
            place, kind, size = self._storages[index]
            if kind in _OF_STEP:
                is_state = place.phase is Phase.OPTIMIZER
                kind = Kind.OPTIMIZER_STATE if is_state else Kind.BUFFER
                self._storages[index] = (place, kind, size)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Disable the wrapper that newer PyTorch puts around each call: nothing is compiled."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # attributes such as the device, not operators
            return args[0].fake_device if func is _DEVICE else func(*args, **kwargs)
        self._note_phase()
        if func is _READ:
            return self._value_read(args[0])
        if names_gpu(kwargs):
            kwargs = with_device(kwargs)
            if func is _CAST and kwargs.keys() <= {"device", "non_blocking"}:
                return args[0]  # it is there already
        if is_composite(func):  # inference mode does not decompose them earlier
            with self:  # not `decompose`, which prefers kernels for compilers
                return func._op_dk(_COMPOSITE, *args, **kwargs)  # noqa: SLF001 - no public name
        func = self._unwatched.instead_of(func, args)
        out = None if only_writes(func) else self._values.run(self._mode, func, args, kwargs)
        self._unwatched.note(func, args, out)
        self._values.known.follow(func, args, kwargs, out)
        place, kind = None, Kind.TEMPORARY
        held: list[int] = []
        for effect in effects(func, args, out, self._version):
            if place is None:
                place = Place(
                    phase=self._phase,
                    module=self._modules.part_in(self._phase),
                    operator=func.overloadpacket.__name__,
                )
                kind = self._kind_of_new(func, args)
            if isinstance(effect, Inside):
                self._take(effect, place)
            elif isinstance(effect, Held):
                self._events += [(Action.FREE, index) for index in held]
                held = [self._allocate(size, place, kind) for size in effect.sizes]
            else:
                self._born(effect, place, kind)
        self._kept_inputs.note(func, args, out)  # may free inputs of the kernel
        return out

    def _go_on_from(self, setup: "Recorder", renewed: Renewed) -> None:
        names: dict[int, int] = {}
        self._storages = list(setup._storages)  # noqa: SLF001 - the same class, here and below
        self._scratches = list(setup._scratches)  # noqa: SLF001
        self._events = list(setup._events)  # noqa: SLF001
        for key, index in setup._live.items():  # noqa: SLF001
            storage = renewed.get(key, setup._deaths[index])()  # noqa: SLF001
            assert storage is not None  # noqa: S101 - `_live` holds live storages only
            names[key] = storage._cdata  # noqa: SLF001 - as `storage_of`
            self._follow(storage, names[key], index)
        self._values.known = setup._values.known.copy(names)  # noqa: SLF001

    def _note_phase(self) -> None:
        if self._phase in (Phase.SETUP, Phase.VALIDATION):
            return
        if _graph_task() != -1:
            if self._phase is not Phase.BACKWARD:
                self._end_forward()
                self._phase = Phase.BACKWARD
        elif self._phase is Phase.BACKWARD:
            self._phase = Phase.OPTIMIZER

    def _end_forward(self) -> None:
        """Mark temporaries that outlive the forward pass as saved for the backward pass."""
        self._modules.name_own_loss(self._events, self._storages, self._scratches)
        for index in self._live.values():
            place, kind, size = self._storages[index]
            if kind is Kind.TEMPORARY:
                self._storages[index] = (place, Kind.SAVED_ACTIVATION, size)

    def _before_forward(self) -> None:
        if self._phase is Phase.OPTIMIZER:  # the next micro-batch
            self.begin(Phase.FORWARD)

    def _kind_of_new(self, operator: Any, args: tuple[Any, ...]) -> Kind:
        if operator is _CAST:
            source = self._live.get(storage_of(args[0]))
            kind = Kind.TEMPORARY if source is None else self._storages[source][1]
            if self._phase is Phase.SETUP:
                return kind
            if kind is Kind.PARAMETER:
                return Kind.WEIGHT_COPY
        return Kind.TEMPORARY

    def _allocate(self, size: int, place: Place, kind: Kind) -> int:
        index = len(self._storages)
        self._storages.append((place, kind, size))
        self._events.append((Action.ALLOCATE, index))
        return index

    def _born(self, tensor: torch.Tensor, place: Place, kind: Kind) -> None:
        storage = tensor.untyped_storage()
        key, size = storage_of(tensor), storage.nbytes()
        if key in self._live or size == 0:
            return
        index = self._allocate(size, place, kind)
        if self._is_updating and place.operator == _FROM_HOST:
            self._on_host.add(index)
        self._follow(storage, key, index)

    def _follow(self, storage: torch.UntypedStorage, key: int, index: int) -> None:
        self._live[key] = index
        self._deaths[index] = weakref.ref(storage, functools.partial(self._died, key, index))

    def _died(self, key: int, index: int, _: object) -> None:
        self._events.append((Action.FREE, index))
        del self._live[key], self._deaths[index]
        self._values.forget(key)
        self._kept_inputs.forget(key)

    def _take(self, inside: Inside, place: Place) -> None:
        self._events.append((Action.SCRATCH, len(self._scratches)))
        self._scratches.append(
            RecordedScratch(
                place=place,
                sizes=inside.sizes,
                convolution=inside.convolution,
                reduction=inside.reduction,
                uses_cublas=inside.uses_cublas,
                elements=inside.elements,
            )
        )

    def _value_read(self, tensor: torch.Tensor) -> float:
        """Read a value; after the backward pass, an unknown one has a default.

        The default is 1 within an optimizer's step. Outside it is 0, so that a GradScaler finds
        no overflow.
        """
        is_update = self._phase is Phase.OPTIMIZER
        is_condition = self._is_updating and tensor.dtype is torch.bool
        if is_update and not is_condition and self._values.known.of(tensor) is None:
            unknown = int(self._is_updating)
            return float(unknown) if tensor.is_floating_point() else unknown
        return self._values.read(tensor)

    def _before_update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._is_updating = True
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        self._mark((p.grad for p in parameters if p.grad is not None), Kind.GRADIENT)

    def _after_update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._is_updating = False
        self._mark_state(optimizer)

    def _mark_state(self, optimizer: torch.optim.Optimizer) -> None:
        on_device, on_host = state_of(optimizer)
        self._on_host.update(self._live[storage_of(count)] for count in on_host)
        self._mark(on_device, Kind.OPTIMIZER_STATE)

    def _mark(self, tensors: Iterable[torch.Tensor], kind: Kind) -> None:
        for tensor in tensors:
            index = self._live.get(storage_of(tensor))
            if index is not None:  # else it has no elements
                place, _, size = self._storages[index]
                self._storages[index] = (place, kind, size)
