"""Parameter groups and optimizers, as DeepLab's recipe has them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from bsprobe.records.bounds import ASKED
from bsprobe.records.errors import UsageError
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
        UsageError: It made something else.
    """
    made = load_callable("--optimizer-from", name)(model)
    if not isinstance(made, torch.optim.Optimizer):
        raise UsageError(
            f"--optimizer-from {name}: it made a {type(made).__name__}, no torch optimizer",
            hint="it is called with the network and returns a torch.optim.Optimizer",
        )
    return made


def group_factors(optimizer: torch.optim.Optimizer) -> tuple[tuple[str, float], ...]:
    """Name and multiple of the first group's learning rate of each group of an optimizer.

    Raises:
        UsageError: A multiple is out of range: the recommended rates would be no numbers.
    """
    groups = optimizer.param_groups
    base = float(groups[0]["lr"])
    names = [str(group.get("name", f"group {number}")) for number, group in enumerate(groups, 1)]
    if len(groups) == 1:
        return (("all", 1.0),)
    factors = tuple(
        (name, float(group["lr"]) / base if base else 1.0)
        for name, group in zip(names, groups, strict=True)
    )
    for name, factor in factors:
        if factor not in ASKED["groups"]:
            raise UsageError(
                f"--optimizer-from: the learning rate of {name} is {factor:g} times that of "
                f"{names[0]}",
                hint=f"give {ASKED['groups']} times that of the first group",
            )
    return factors


def _trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
