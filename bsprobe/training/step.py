"""One training step: the only place that runs one, on every device, real or simulated."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from bsprobe.records.errors import UsageError
from bsprobe.records.habits import COMMONEST, Gradients, Habits, Outputs, ZeroGrad
from bsprobe.records.trials import Ddp, ModelFacts
from bsprobe.records.variants import Checkpointing, MemoryFormat, Precision, Variant
from bsprobe.training.losses import CrossEntropy, Loss, NetworkLoss, OwnLoss, upsample
from bsprobe.training.models.callables import load_callable
from bsprobe.training.models.checkpointing import checkpointed_parts
from bsprobe.training.models.factory import build_model
from bsprobe.training.optimizers import (
    build_optimizer,
    group_factors,
    own_optimizer,
    parameter_groups,
)
from bsprobe.training.outputs import logits_of
from bsprobe.training.own_batches import OwnBatch, layout_for

LEARNING_RATE = 1e-5
"""Of the trials: memory does not depend on it, and a small one lets no short trial diverge."""
_NAMED = 3
"""Parameters without a gradient that an error names."""
AUTOCAST_DTYPES = {Precision.AMP_FP16: torch.float16, Precision.AMP_BF16: torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images (N, C, H, W), float32, and int64 labels: train ids (N, H, W) or classes (N,).

    Volumes and their labels have a dimension more, behind the channels.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device, layout: torch.memory_format) -> "Batch":
        """The batch on a device, images in a memory layout; itself where it is so already."""
        kept = layout_for(self.images, layout)
        return Batch(
            images=self.images.to(device, memory_format=kept, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with another tensor in the place of each."""
        return Batch(images=function(self.images), labels=function(self.labels))

    @property
    def targets(self) -> torch.Tensor:
        """The targets that the loss compares the outputs with."""
        return self.labels

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """The outputs of a network for the images."""
        return model(self.images)


class Replica(Protocol):
    """A network that averages its gradients with those of other processes.

    `DistributedDataParallel`, or what stands for it where no others are there.
    """

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The forward pass of the network; the backward pass then averages."""

    def no_sync(self) -> AbstractContextManager[None]:
        """The context of forward and backward passes that leave the average to a later one."""


@dataclass(slots=True, kw_only=True)
class Task:
    """A network in training: everything that a step changes."""

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    layout: torch.memory_format
    autocast_dtype: torch.dtype | None
    habits: Habits = COMMONEST
    """Those of the loop, but for its batch: whoever calls `training_step` keeps or moves it."""
    kept_outputs: Any = field(default=None)
    """Those of the last micro-batch, where the loop has a name for them."""
    kept_loss: torch.Tensor | None = field(default=None)
    """As above."""
    replica: Replica | None = None
    """The network as it is trained together with other processes; None: alone."""
    ddp: Ddp = Ddp.DEFAULT
    """The setting of the replica."""
    updates_applied: int = field(default=0)
    """Optimizer updates so far; a GradScaler skips those whose gradients overflowed."""
    without_gradient: tuple[str, ...] | None = field(default=None)
    """The names of the trainable parameters that no step so far gave a gradient; None before."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the forward pass and the loss."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    @property
    def trained(self) -> Callable[..., Any]:
        """The module that a training step runs forward: the network, or its replica."""
        return self.model if self.replica is None else self.replica

    def note_gradients(self) -> None:
        """Note which trainable parameters have no gradient, at the end of a backward pass.

        Raises:
            UsageError: There are some, and the replica would stop at the next forward pass.
        """
        if self.without_gradient == ():
            return
        missing = tuple(
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and parameter.grad is None
            # A simulated replica has such hooks on all.
            if self.replica is not None or not _takes_its_gradient(parameter)
        )
        before = missing if self.without_gradient is None else self.without_gradient
        self.without_gradient = tuple(name for name in before if name in missing)
        if self.without_gradient and self.replica is not None and self.ddp is Ddp.DEFAULT:
            raise _refused_by_ddp(self.without_gradient)

    def without_average(self) -> AbstractContextManager[None]:
        """The context of a micro-batch that is not the last of its step."""
        return nullcontext() if self.replica is None else self.replica.no_sync()


def _takes_its_gradient(parameter: nn.Parameter) -> bool:
    """True where hooks run when the gradient is there, such as an optimizer's in the backward pass.

    They may have used and dropped it.
    """
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


def _refused_by_ddp(names: Sequence[str]) -> UsageError:
    """The error in place of DDP's own, which tells indices at the beginning of the second step.

    Source: `Reducer::ensure_prior_reduction_finished` in torch/csrc/distributed/c10d/reducer.cpp.
    """
    others = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return UsageError(
        "DistributedDataParallel stops at trainable parameters that get no gradient: "
        f"{', '.join(names[:_NAMED])}{others}",
        hint=f"add --ddp {Ddp.FIND_UNUSED_PARAMETERS} or --ddp {Ddp.STATIC_GRAPH}; or freeze them "
        "(requires_grad=False), or give a checkpoint around them use_reentrant=False",
    )


def build_task(variant: Variant, device: torch.device) -> Task:
    """Build the network of a variant on a device and make it ready to train.

    Raises:
        UsageError: The variant names something unknown.
    """
    model = build_model(variant).to(device=device)
    layout = layout_of(variant)
    if layout is not torch.contiguous_format:
        model = model.to(memory_format=layout)
    return task_for(model, variant, device)


def layout_of(variant: Variant) -> torch.memory_format:
    """The memory layout of a network's weights and images."""
    if variant.memory_format is MemoryFormat.NCHW:
        return torch.contiguous_format
    is_volume = variant.resolution is not None and variant.resolution.slices is not None
    return torch.channels_last_3d if is_volume else torch.channels_last


def task_for(model: nn.Module, variant: Variant, device: torch.device) -> Task:
    """Make a network that is on its device and in its layout ready to train."""
    task = Task(
        model=model,
        loss=_loss_of(variant),
        optimizer=_optimizer_of(variant, model),
        scaler=torch.amp.GradScaler(device.type, enabled=variant.precision is Precision.AMP_FP16),
        device=device,
        layout=layout_of(variant),
        autocast_dtype=AUTOCAST_DTYPES.get(variant.precision),
        habits=variant.own.habits,
    )

    def count(*_: object) -> None:
        task.updates_applied += 1

    # The scaler calls the optimizer only when it does not skip: this counts without a sync.
    task.optimizer.register_step_post_hook(count)
    return task


def _loss_of(variant: Variant) -> Loss:
    own = variant.own
    if own.own_loss is not None:
        return OwnLoss(function=load_callable("--loss", own.own_loss))
    if own.batches is not None and own.loss is None:
        return NetworkLoss()
    # What labels your own batches have is not known here.
    classes = variant.classes if own.batches is None else None
    return CrossEntropy(problem=variant.problem, at=variant.loss_at, classes=classes)


def _optimizer_of(variant: Variant, model: nn.Module) -> torch.optim.Optimizer:
    if variant.own.optimizer is not None:
        return own_optimizer(variant.own.optimizer, model)
    return build_optimizer(variant.optimizer, parameter_groups(model), learning_rate=LEARNING_RATE)


def facts_of(task: Task, variant: Variant) -> ModelFacts:
    """The facts of the network and its optimizer that the recommendation needs."""
    groups = (
        tuple((group.name, group.factor) for group in parameter_groups(task.model))
        if variant.own.optimizer is None
        else group_factors(task.optimizer)
    )
    missing = task.without_gradient or ()
    return ModelFacts(
        parameters=sum(parameter.numel() for parameter in task.model.parameters()),
        groups=groups,
        parameters_without_gradient=len(missing),
        first_without_gradient=next(iter(missing), None),
        batch_norms=sum(
            module.training or module.running_mean is None
            for module in task.model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - the common base
        ),
        checkpointed=checkpointed_parts(task.model, variant.own.checkpoint_blocks)
        if variant.checkpointing is Checkpointing.ON
        else (),
    )


def training_step(task: Task, micro_batches: Sequence[Batch | OwnBatch]) -> torch.Tensor:
    """One optimizer update over the micro-batches of an effective batch.

    A micro-batch is moved to the device when its turn comes: only one is ever there.

    Returns:
        The loss of the effective batch, a detached scalar: ours is the mean over its valid pixels
        or images, your own the mean over its micro-batches.
    """
    habits = task.habits
    if habits.zero_grad is ZeroGrad.START:
        _zero_grad(task)
    count = task.loss.counted([batch.targets for batch in micro_batches])
    total = torch.zeros((), device=task.device)
    for number, waiting in enumerate(micro_batches, start=1):
        is_last = number == len(micro_batches)
        batch = waiting.to(task.device, task.layout)
        with nullcontext() if is_last else task.without_average():
            with task.autocast():
                loss = _loss(task, batch, count)
            if number == 1 and habits.zero_grad is ZeroGrad.BEFORE_BACKWARD:
                _zero_grad(task)
            task.scaler.scale(loss).backward()
        total += loss.detach()
    task.note_gradients()
    task.scaler.step(task.optimizer)
    task.scaler.update()
    if habits.zero_grad is ZeroGrad.END:
        _zero_grad(task)
    if habits.outputs is Outputs.STEP:
        task.kept_outputs = task.kept_loss = None
    return total


def _loss(task: Task, batch: Batch | OwnBatch, count: Any) -> torch.Tensor:
    """The forward pass; what it makes has a name where it has one in the loop."""
    if task.habits.outputs is Outputs.DROPPED:
        return task.loss(batch.outputs_of(task.trained), batch.targets, count)
    task.kept_outputs = batch.outputs_of(task.trained)  # those before end here
    task.kept_loss = task.loss(task.kept_outputs, batch.targets, count)
    return task.kept_loss


def _zero_grad(task: Task) -> None:
    task.optimizer.zero_grad(set_to_none=task.habits.gradients is Gradients.NONE)


@torch.inference_mode()
def evaluation_logits(task: Task, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Logits (N, classes, height, width) at the size of the labels to be compared with.

    Leaves the model in training mode, as it found it.
    """
    return _logits(task, images, size)


@torch.inference_mode()
def evaluation_pass(task: Task, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Predict train ids (N, height, width) at the size of the labels to be compared with.

    Leaves the model in training mode, as it found it.
    """
    # Not by way of `evaluation_logits`: a trace runs this function without its inference mode.
    return _logits(task, images, size).argmax(dim=1)


def _logits(task: Task, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    task.model.eval()
    with task.autocast():
        logits = upsample(logits_of(task.model(images)), size)
    task.model.train()
    return logits
