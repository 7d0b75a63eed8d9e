"""The training step, the same on every device, real or simulated."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import nn

from bsprobe.records.batch_forms import BatchForm
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
"""The learning rate of trials. Memory does not depend on it; a small one does not diverge."""
_CLASSES_OF_IMAGES = 2
"""Dimensions of logits of images, (N, classes)."""
_NAMED = 3
"""Number of parameters without a gradient that an error names."""
AUTOCAST_DTYPES = {Precision.AMP_FP16: torch.float16, Precision.AMP_BF16: torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images (N, C, H, W), float32, and int64 labels: train ids (N, H, W) or classes (N,).

    Volumes and their labels have one more dimension, D, before H.
    """

    images: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device, layout: torch.memory_format) -> "Batch":
        """Return the batch on a device, images in a memory layout."""
        kept = layout_for(self.images, layout)
        return Batch(
            images=self.images.to(device, memory_format=kept, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """Return the batch with a function applied to both tensors."""
        return Batch(images=function(self.images), labels=function(self.labels))

    @property
    def targets(self) -> torch.Tensor:
        """The targets that the loss compares the outputs with."""
        return self.labels

    def outputs_of(self, model: Callable[..., Any]) -> Any:
        """Run a network on the images."""
        return model(self.images)


class Replica(Protocol):
    """A network that averages its gradients with those of other processes.

    It is `DistributedDataParallel`, or its simulation in one process.
    """

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the forward pass of the network; the backward pass averages the gradients."""

    def no_sync(self) -> AbstractContextManager[None]:
        """Return the context of passes that accumulate gradients without averaging them."""


@dataclass(slots=True, kw_only=True)
class Task:
    """A network in training: the state that a step changes."""

    model: nn.Module
    loss: Loss
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    layout: torch.memory_format
    autocast_dtype: torch.dtype | None
    habits: Habits = COMMONEST
    """The habits of the loop, except for its batch, which the caller of `training_step` holds."""
    kept_outputs: Any = field(default=None)
    """The outputs of the last micro-batch, if the loop keeps them in a variable."""
    kept_loss: torch.Tensor | None = field(default=None)
    """The loss of the last micro-batch, if the loop keeps it in a variable."""
    replica: Replica | None = None
    """The network that averages gradients with other processes; None for one process."""
    ddp: Ddp = Ddp.DEFAULT
    """The setting of the replica."""
    updates_applied: int = field(default=0)
    """Optimizer updates so far, without those that a GradScaler skipped."""
    batch_form: BatchForm | None = field(default=None)
    """The form of user-supplied batches; None before the first step."""
    without_gradient: tuple[str, ...] | None = field(default=None)
    """Names of the trainable parameters without a gradient in every step; None before the first."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of the forward pass and the loss."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    @property
    def trained(self) -> Callable[..., Any]:
        """The module that a training step runs forward: the network, or its replica."""
        return self.model if self.replica is None else self.replica

    def note_gradients(self) -> None:
        """Record the trainable parameters without a gradient after a backward pass.

        Raises:
            UsageError: There are such parameters, and the replica would fail in the next step.
        """
        if self.without_gradient == ():
            return
        missing = tuple(
            name
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad and parameter.grad is None
            # A simulated replica has hooks on all parameters.
            if self.replica is not None or not _takes_its_gradient(parameter)
        )
        before = missing if self.without_gradient is None else self.without_gradient
        self.without_gradient = tuple(name for name in before if name in missing)
        if self.without_gradient and self.replica is not None and self.ddp is Ddp.DEFAULT:
            raise _refused_by_ddp(self.without_gradient)

    def note_form(self, batch: "Batch | OwnBatch") -> None:
        """Record the form of user-supplied batches, of which all have the same."""
        if self.batch_form is None and isinstance(batch, OwnBatch):
            form = batch.form_for(self.model)
            if form is not None and isinstance(self.loss, NetworkLoss):
                form = replace(form, loss=self.loss.place)
            self.batch_form = form

    def without_average(self) -> AbstractContextManager[None]:
        """Return the context of a micro-batch that is not the last of its step."""
        return nullcontext() if self.replica is None else self.replica.no_sync()


def _takes_its_gradient(parameter: nn.Parameter) -> bool:
    """True if a parameter has hooks that run after its gradient is accumulated.

    They may use and drop the gradient, as optimizers in the backward pass do.
    """
    return bool(getattr(parameter, "_post_accumulate_grad_hooks", None))


def _refused_by_ddp(names: Sequence[str]) -> UsageError:
    """The error that replaces DDP's, which gives indices and comes in the second step.

    Source: `Reducer::ensure_prior_reduction_finished` in torch/csrc/distributed/c10d/reducer.cpp.
    """
    others = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return UsageError(
        "DistributedDataParallel fails with trainable parameters that get no gradient: "
        f"{', '.join(names[:_NAMED])}{others}",
        hint=f"add --ddp {Ddp.FIND_UNUSED_PARAMETERS} or --ddp {Ddp.STATIC_GRAPH}, freeze them "
        "(requires_grad=False), or checkpoint them with use_reentrant=False",
    )


def build_task(variant: Variant, device: torch.device) -> Task:
    """Build the network of a variant on a device, with its loss and its optimizer.

    Raises:
        UsageError: The variant has an unknown name, or the network does not take its options.
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
    """Build the task of a network, with its loss and its optimizer.

    Args:
        model: The network, on the device and in its memory layout.
        variant: Gives the loss, the optimizer, the precision and the habits.
        device: The device to train on.
    """
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

    # The scaler does not call the optimizer in a skipped update, so counting needs no sync.
    task.optimizer.register_step_post_hook(count)
    return task


def _loss_of(variant: Variant) -> Loss:
    own = variant.own
    if own.own_loss is not None:
        return OwnLoss(function=load_callable("--loss", own.own_loss))
    if own.batches is not None and own.loss is None:
        return NetworkLoss()
    # The classes in user-supplied batches are not known.
    classes = variant.classes if own.batches is None else None
    return CrossEntropy(problem=variant.problem, at=variant.loss_at, classes=classes)


def _optimizer_of(variant: Variant, model: nn.Module) -> torch.optim.Optimizer:
    if variant.own.optimizer is not None:
        return own_optimizer(variant.own.optimizer, model)
    return build_optimizer(variant.optimizer, parameter_groups(model), learning_rate=LEARNING_RATE)


def facts_of(task: Task, variant: Variant) -> ModelFacts:
    """The facts about the network and its optimizer that the recommendation needs."""
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
        batch_form=task.batch_form,
    )


def training_step(task: Task, micro_batches: Sequence[Batch | OwnBatch]) -> torch.Tensor:
    """Run one optimizer update over the micro-batches of an effective batch.

    Each micro-batch is moved to the device before its forward pass: one is there at a time.

    Returns:
        The loss of the effective batch, a detached scalar: the mean over its valid pixels or
        images. A loss of the user or of the network is averaged over the micro-batches.
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
    task.note_form(micro_batches[0])
    task.note_gradients()
    task.scaler.step(task.optimizer)
    task.scaler.update()
    if habits.zero_grad is ZeroGrad.END:
        _zero_grad(task)
    if habits.outputs is Outputs.STEP:
        task.kept_outputs = task.kept_loss = None
    return total


def _loss(task: Task, batch: Batch | OwnBatch, count: Any) -> torch.Tensor:
    """Run the forward pass and the loss; keep the outputs in the task if the loop keeps them."""
    if task.habits.outputs is Outputs.DROPPED:
        return task.loss(batch.outputs_of(task.trained), batch.targets, count)
    task.kept_outputs = batch.outputs_of(task.trained)  # frees the previous ones
    task.kept_loss = task.loss(task.kept_outputs, batch.targets, count)
    return task.kept_loss


def _zero_grad(task: Task) -> None:
    task.optimizer.zero_grad(set_to_none=task.habits.gradients is Gradients.NONE)


@torch.inference_mode()
def evaluation_logits(task: Task, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Compute logits (N, classes, height, width) in evaluation mode, resized to the labels.

    Args:
        task: Its model is left in training mode.
        images: (N, C, H, W), on the device of the task.
        size: Height and width of the labels.
    """
    logits: torch.Tensor = _logits(task, images, size)
    return logits


@torch.inference_mode()
def evaluation_pass(task: Task, images: torch.Tensor, size: Sequence[int]) -> Any:
    """Predict classes in evaluation mode: of pixels (N, height, width), or of images (N,).

    Volumes have one more dimension. Outputs without logits are returned as they are.

    Args:
        task: Its model is left in training mode.
        images: (N, C, H, W), on the device of the task.
        size: The sides of the labels of pixels.
    """
    # It does not call `evaluation_logits`: a trace runs this function without inference mode.
    logits = _logits(task, images, size)
    return logits.argmax(dim=1) if isinstance(logits, torch.Tensor) else logits


def _logits(task: Task, images: torch.Tensor, size: Sequence[int]) -> Any:
    task.model.eval()
    with task.autocast():
        logits = logits_of(task.model(images))
        if isinstance(logits, torch.Tensor) and logits.dim() > _CLASSES_OF_IMAGES:
            logits = upsample(logits, size)
    task.model.train()
    return logits
