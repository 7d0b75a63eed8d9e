"""Parameter groups and optimizers, of DeepLab's recipe and user-supplied."""

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
    OptimizerName.ADAMW: 1e-2,  # torch's default: decoupled decay is not comparable with SGD's
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters with one multiple of the base learning rate."""

    name: str
    factor: float
    """Multiplier of the base learning rate."""
    decays: float
    """Multiplier of the weight decay."""
    parameters: tuple[nn.Parameter, ...]


def parameter_groups(model: nn.Module) -> tuple[ParameterGroup, ...]:
    """The groups of a network's parameters: three for DeepLabV2, one for any other network.

    Source: `lr_mult` and `decay_mult` of the released solver of DeepLabV2 with ResNet-101.
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
        name: The optimizer.
        groups: From `parameter_groups`.
        learning_rate: The rate of the group with factor 1.
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
    """Build the optimizer of a network with a user's callable.

    Raises:
        UsageError: The callable fails, returns no optimizer, or one that `training_step` cannot
            run.
        Exception: The callable runs out of memory: its exception, unchanged.
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
            f"--optimizer-from {name}: it returned a {type(made).__name__}, not a torch optimizer",
            hint="it is called with the network and must return a torch.optim.Optimizer",
        )
    if refusal := _refusal(made, model):
        raise UsageError(
            f"--optimizer-from {name}: {refusal}",
            hint="give an optimizer whose step() takes dense gradients and no closure, such as "
            "torch.optim.AdamW",
        )
    return made


def _is_of_memory(error: Exception) -> bool:
    """True if an exception is an outcome of the batch size on any device."""
    types = [kind.__name__ for kind in type(error).__mro__]
    return any(
        classify(kind, types=types, message=str(error)).outcome is not Outcome.FAILED
        for kind in DeviceKind
    )


def _failed_build(name: str, error: Exception) -> UsageError:
    """The error for a callable that failed: the message of its exception, and the line."""
    words = (str(error).strip() or "no message").splitlines()[0]
    calls = traceback.extract_tb(error.__traceback__)[1:]  # the first one is in this module
    place = f" ({Path(calls[0].filename).name}, line {calls[0].lineno})" if calls else ""
    hint = "it is called with the network and must return a torch.optim.Optimizer"
    if isinstance(error, ModuleNotFoundError):
        hint = f"install the package of the module {error.name}, or give another optimizer"
    return UsageError(f"--optimizer-from {name}: {type(error).__name__}: {words}{place}", hint=hint)


def _refusal(optimizer: torch.optim.Optimizer, model: nn.Module) -> str | None:
    """The reason why `training_step` cannot run an optimizer; None if it can."""
    kind = type(optimizer).__name__
    if not hasattr(optimizer, "_optimizer_step_post_hooks"):
        return f"{kind}.__init__() does not call torch.optim.Optimizer.__init__()"
    if _wants_closure(optimizer):
        return (
            f"{kind}.step() needs a closure, which it calls a number of times that depends on the "
            "loss"
        )
    # The attribute is timm's (timm/optim/adahessian.py), whose loops then pass create_graph=True.
    if getattr(optimizer, "is_second_order", False):
        return f"{kind} needs second derivatives: a backward pass with create_graph=True"
    if isinstance(optimizer, torch.optim.SparseAdam):
        return _dense_parameter(optimizer, model)
    return None


def _wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    """True if `step` has a required argument, as LBFGS's has (torch/optim/lbfgs.py)."""
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    # Of the class: learning rate schedulers replace `step` of the instance.
    _, *arguments = inspect.signature(type(optimizer).step).parameters.values()
    return any(each.default is each.empty and each.kind not in several for each in arguments)


def _dense_parameter(optimizer: torch.optim.SparseAdam, model: nn.Module) -> str | None:
    """The reason why `SparseAdam.step` (torch/optim/sparse_adam.py) would fail, if it would."""
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
                return f"SparseAdam takes sparse gradients only, and that of {what} is dense"
    return None


def group_factors(optimizer: torch.optim.Optimizer) -> tuple[tuple[str, float], ...]:
    """The name of each group, and its learning rate as a multiple of the first group's.

    Raises:
        UsageError: A multiple is out of range.
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
    """The learning rate of a group; None if the optimizer computes it, as Adafactor can."""
    rate = group.get("lr")
    return None if rate is None else float(rate)


def _trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
