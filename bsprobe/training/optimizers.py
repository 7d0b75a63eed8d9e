"""Parameter groups and optimizers, as DeepLab's recipe has them."""

import inspect
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bsprobe.records.bounds import ASKED
from bsprobe.records.device_kind import DeviceKind
from bsprobe.records.errors import BsprobeError, UsageError
from bsprobe.records.failures import Outcome, classify
from bsprobe.records.variants import OptimizerName
from bsprobe.training.models.callables import load_callable
from bsprobe.training.models.deeplabv2 import DeepLabV2

MOMENTUM = 0.9
WEIGHT_DECAYS = {
    OptimizerName.SGD: 5e-4,
    OptimizerName.ADAMW: 1e-2,  # torch's default: decoupled decay is another quantity than SGD's
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a multiple of the base learning rate."""

    name: str
    factor: float
    """Multiplier of the base learning rate."""
    decays: float
    """Multiplier of the weight decay."""
    parameters: tuple[nn.Parameter, ...]


def parameter_groups(model: nn.Module) -> tuple[ParameterGroup, ...]:
    """DeepLabV2's three groups (1x, 10x, 20x; no decay on classifier biases); one for other nets.

    Source: the released DeepLabV2 ResNet-101 solver's lr_mult and decay_mult.
    """
    if not isinstance(model, DeepLabV2):
        return (
            ParameterGroup(name="all", factor=1.0, decays=1.0, parameters=tuple(_trainable(model))),
        )
    head = dict(model.layer5.named_parameters())
    weights = tuple(p for name, p in head.items() if name.endswith("weight"))
    biases = tuple(p for name, p in head.items() if name.endswith("bias"))
    in_head = {id(p) for p in head.values()}
    backbone = tuple(p for p in _trainable(model) if id(p) not in in_head)
    return (
        ParameterGroup(name="backbone", factor=1.0, decays=1.0, parameters=backbone),
        ParameterGroup(name="classifier weights", factor=10.0, decays=1.0, parameters=weights),
        ParameterGroup(name="classifier biases", factor=20.0, decays=0.0, parameters=biases),
    )


def build_optimizer(
    name: OptimizerName, groups: tuple[ParameterGroup, ...], *, learning_rate: float
) -> torch.optim.Optimizer:
    """Build the optimizer over a model's parameter groups.

    Args:
        name: Which one.
        groups: From `parameter_groups`.
        learning_rate: Of the group with factor 1.
    """
    settings = [
        {
            "params": list(group.parameters),
            "lr": learning_rate * group.factor,
            "weight_decay": WEIGHT_DECAYS[name] * group.decays,
        }
        for group in groups
    ]
    match name:
        case OptimizerName.SGD:
            return torch.optim.SGD(settings, lr=learning_rate, momentum=MOMENTUM)
        case OptimizerName.ADAMW:
            return torch.optim.AdamW(settings, lr=learning_rate)


def own_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    """Have your callable build the optimizer of a network.

    Raises:
        UsageError: It fails, makes something else, or an optimizer whose step is another one than
            that of `training_step`.
        Exception: Whatever says that memory has run out, which is no mistake of the callable's.
    """
    build = load_callable("--optimizer-from", name)
    try:
        made = build(model)
    except BsprobeError:
        raise
    except Exception as error:
        if _is_of_memory(error):
            raise
        raise _failed_build(name, error) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(
            f"--optimizer-from {name}: it made a {type(made).__name__}, no torch optimizer",
            hint="it is called with the network and returns a torch.optim.Optimizer",
        )
    if refusal := _refusal(made, model):
        raise UsageError(
            f"--optimizer-from {name}: {refusal}",
            hint="give an optimizer whose step() takes dense gradients and no closure, such as "
            "torch.optim.AdamW",
        )
    return made


def _is_of_memory(error: Exception) -> bool:
    """True where an exception is an outcome of the batch size, whatever the device."""
    types = [kind.__name__ for kind in type(error).__mro__]
    return any(
        classify(kind, types=types, message=str(error)).outcome is not Outcome.FAILED
        for kind in DeviceKind
    )


def _failed_build(name: str, error: Exception) -> UsageError:
    """The error to show for a callable that failed: its own words and the line of it."""
    words = (str(error).strip() or "no message").splitlines()[0]
    calls = traceback.extract_tb(error.__traceback__)[1:]  # the first one is in this module
    place = f" ({Path(calls[0].filename).name}, line {calls[0].lineno})" if calls else ""
    hint = "it is called with the network and returns a torch.optim.Optimizer over its parameters"
    if isinstance(error, ModuleNotFoundError):
        hint = f"install the package that has {error.name}, or give another optimizer"
    return UsageError(f"--optimizer-from {name}: {type(error).__name__}: {words}{place}", hint=hint)


def _refusal(optimizer: torch.optim.Optimizer, model: nn.Module) -> str | None:
    """The reason why the step of an optimizer cannot be run here, None where it can be."""
    kind = type(optimizer).__name__
    if not hasattr(optimizer, "_optimizer_step_post_hooks"):
        return f"{kind}.__init__() does not call that of torch.optim.Optimizer, which makes hooks"
    if _wants_closure(optimizer):
        return (
            f"{kind}.step() needs a closure that runs the network again; how often it does so in "
            "a step depends on the values of the loss"
        )
    # timm's mark (timm/optim/adahessian.py): its training loops then pass `create_graph=True`.
    if getattr(optimizer, "is_second_order", False):
        return (
            f"{kind} needs second derivatives: a backward pass that keeps its graph "
            "(create_graph=True)"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        return _dense_parameter(optimizer, model)
    return None


def _wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    """True where `step` has a required argument: LBFGS's (torch/optim/lbfgs.py) in torch.optim."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    # Of the class: a learning rate scheduler puts a function without `self` in the instance.
    _, *arguments = inspect.signature(type(optimizer).step).parameters.values()
    return any(each.default is each.empty and each.kind not in several for each in arguments)


def _dense_parameter(optimizer: torch.optim.SparseAdam, model: nn.Module) -> str | None:
    """The refusal of `SparseAdam.step` (torch/optim/sparse_adam.py), told before a step is run."""
    sparse = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in sparse:
                what = names.get(id(parameter), "a parameter")
                return f"SparseAdam takes sparse gradients alone, and that of {what} is dense"
    return None


def group_factors(optimizer: torch.optim.Optimizer) -> tuple[tuple[str, float], ...]:
    """Name and multiple of the first group's learning rate of each group of an optimizer.

    Raises:
        UsageError: A multiple is out of range: the recommended rates would be no numbers.
    """
    groups = optimizer.param_groups
    rates = [_rate(group) for group in groups]
    base = rates[0]
    names = [str(group.get("name", f"group {number}")) for number, group in enumerate(groups, 1)]
    if len(groups) == 1:
        return (("all", 1.0),)
    factors = tuple(
        (name, rate / base if base and rate is not None else 1.0)
        for name, rate in zip(names, rates, strict=True)
    )
    for name, factor in factors:
        if factor not in ASKED["groups"]:
            raise UsageError(
                f"--optimizer-from: the learning rate of {name} is {factor:g} times that of "
                f"{names[0]}",
                hint=f"give {ASKED['groups']} times that of the first group",
            )
    return factors


def _rate(group: dict[str, Any]) -> float | None:
    """The learning rate of a group; None where the optimizer finds it itself, such as Adafactor."""
    rate = group.get("lr")
    return None if rate is None else float(rate)


def _trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
