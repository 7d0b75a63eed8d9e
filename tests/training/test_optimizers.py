import importlib
import importlib.util
from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn

from bsprobe.analysis.rates import rule_for
from bsprobe.records.errors import UsageError
from bsprobe.records.rates import LearningRateRule
from bsprobe.records.runs import Target
from bsprobe.records.variants import Norm, OptimizerName
from bsprobe.report.run import sentences
from bsprobe.report.snippet import snippet
from bsprobe.training.models.norms import LAYERS
from bsprobe.training.optimizers import (
    build_optimizer,
    group_factors,
    own_optimizer,
    parameter_groups,
)
from tests.support.networks import without_data


@pytest.mark.parametrize(
    ("norm", "backbone_tensors"),
    [(Norm.BATCH, 104 * 3), (Norm.GROUP, 104 * 3), (Norm.INSTANCE, 104 * 3), (Norm.FROZEN, 104)],
)
def test_deeplabv2_learns_its_classifier_ten_and_twenty_times_as_fast(
    norm: Norm, backbone_tensors: int
) -> None:
    model = without_data("deeplabv2-resnet101", norm=norm)
    groups = parameter_groups(model)

    assert [(g.name, g.factor, g.decays, len(g.parameters)) for g in groups] == [
        ("backbone", 1.0, 1.0, backbone_tensors),
        ("classifier weights", 10.0, 1.0, 4),
        ("classifier biases", 20.0, 0.0, 4),
    ]
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert [names[parameter] for g in groups[1:] for parameter in g.parameters] == [
        f"layer5.conv2d_list.{branch}.{entry}"
        for entry in ("weight", "bias")
        for branch in range(4)
    ]


@pytest.mark.parametrize("norm", LAYERS)
@pytest.mark.parametrize("name", ["deeplabv2-resnet50", "torchvision:lraspp_mobilenet_v3_large"])
def test_every_parameter_is_in_exactly_one_group(name: str, norm: Norm) -> None:
    model = without_data(name, norm=norm)

    grouped = list(chain.from_iterable(group.parameters for group in parameter_groups(model)))

    assert len(grouped) == len(set(grouped))
    assert set(grouped) == set(model.parameters())


def test_a_net_of_another_kind_is_one_group_of_what_it_trains() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    model[0].requires_grad_(requires_grad=False)

    (group,) = parameter_groups(model)

    assert (group.name, group.factor, group.decays) == ("all", 1.0, 1.0)
    assert group.parameters == tuple(model[1].parameters())


@pytest.mark.parametrize(
    ("name", "kind", "decay", "momentum"),
    [
        (OptimizerName.SGD, torch.optim.SGD, 5e-4, (0.9, False)),
        (OptimizerName.ADAMW, torch.optim.AdamW, 1e-2, (None, None)),
    ],
)
def test_the_optimizer_gives_each_group_its_rate_and_spares_biases_the_decay(
    name: OptimizerName,
    kind: type[torch.optim.Optimizer],
    decay: float,
    momentum: tuple[float | None, bool | None],
) -> None:
    groups = parameter_groups(without_data("deeplabv2-resnet50"))

    optimizer = build_optimizer(name, groups, learning_rate=2.5e-4)

    assert type(optimizer) is kind
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (pytest.approx(2.5e-4), decay),
        (pytest.approx(2.5e-3), decay),
        (pytest.approx(5e-3), 0.0),
    ]
    assert [tuple(g["params"]) for g in optimizer.param_groups] == [g.parameters for g in groups]
    assert {(g.get("momentum"), g.get("nesterov")) for g in optimizer.param_groups} == {momentum}


@pytest.mark.parametrize(
    ("name", "state"),
    [
        (OptimizerName.SGD, {"momentum_buffer"}),
        (OptimizerName.ADAMW, {"step", "exp_avg", "exp_avg_sq"}),
    ],
)
def test_the_first_update_creates_the_state_that_the_memory_must_hold(
    name: OptimizerName, state: set[str]
) -> None:
    layer = nn.Conv2d(3, 4, 1)
    optimizer = build_optimizer(name, parameter_groups(layer), learning_rate=0.1)
    layer(torch.ones((1, 3, 2, 2))).sum().backward()

    assert dict(optimizer.state) == {}
    optimizer.step()

    assert [set(optimizer.state[p]) for p in layer.parameters()] == [state, state]


@pytest.mark.parametrize("name", OptimizerName)
def test_every_optimizer_is_known_wherever_optimizers_are(name: OptimizerName) -> None:
    built = build_optimizer(name, parameter_groups(nn.Linear(2, 2)), learning_rate=0.1)

    assert sentences._OPTIMIZER_NAMES[name] == type(built).__name__
    assert f"torch.optim.{type(built).__name__}(" in snippet._OPTIMIZERS[name]
    assert float(snippet._DECAYS[name]) == built.param_groups[0]["weight_decay"]
    assert rule_for(Target(), name) in LearningRateRule


@pytest.mark.parametrize(
    ("rates", "factor"), [((1e-300, 1.0), 1e300), ((1.0, float("inf")), float("inf"))]
)
def test_groups_whose_rates_differ_beyond_all_bounds_are_refused(
    rates: tuple[float, float], factor: float
) -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    with pytest.raises(UsageError) as refused:
        group_factors(torch.optim.SGD(groups))
    for fact in ("--optimizer-from", "group 2", f"{factor:g} times", "group 1"):
        assert fact in str(refused.value)


def test_groups_of_rate_zero_have_the_factor_zero() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 0.0)]
    assert group_factors(torch.optim.SGD(groups)) == (("group 1", 1.0), ("group 2", 0.0))


def test_groups_of_an_optimizer_that_finds_its_rate_itself_have_one_rate() -> None:
    optimizer = torch.optim.SGD([{"params": [each]} for each in torch.zeros(2, 1).unbind()])
    for group in optimizer.param_groups:
        group["lr"] = None  # as in Hugging Face's Adafactor
    assert group_factors(optimizer) == (("group 1", 1.0), ("group 2", 1.0))


def lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(model.parameters())


def adahessian(model: nn.Module) -> torch.optim.Optimizer:
    timm = importlib.import_module("timm.optim")  # not everybody has it
    made: torch.optim.Optimizer = timm.Adahessian(model.parameters())
    return made


def sparse(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SparseAdam(model.parameters())


def of_a_missing_package(model: nn.Module) -> torch.optim.Optimizer:
    import no_such_package  # type: ignore[import-not-found] # noqa: PLC0415 - that is the test

    made: torch.optim.Optimizer = no_such_package.Adam(model.parameters())
    return made


def negative_rate(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=-1.0)


def without_arguments() -> None:
    """A function that cannot be called with a network."""


def no_memory(_: nn.Module) -> torch.optim.Optimizer:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class AnyArguments(torch.optim.SGD):
    def step(self, *args: Any, **named: Any) -> None:  # type: ignore[override]
        super().step(*args, **named)


def any_arguments(model: nn.Module) -> torch.optim.Optimizer:
    return AnyArguments(model.parameters())


def own(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return own_optimizer(f"{__name__}:{name}", model)


@pytest.mark.parametrize(
    ("name", "said", "advised"),
    [
        ("lbfgs", "LBFGS.step() needs a closure", "no closure"),
        pytest.param(
            "adahessian",
            "Adahessian needs second derivatives",
            "torch.optim.AdamW",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("timm") is None, reason="timm is not installed"
            ),
        ),
        (
            "sparse",
            "0.weight is dense",
            "dense",
        ),
        ("of_a_missing_package", "No module named 'no_such_package'", "install the package"),
        ("negative_rate", "ValueError: Invalid learning rate: -1.0 (test_optimizers.py, line ", ""),
        ("without_arguments", "takes 0 positional arguments but 1 was given", "with the network"),
    ],
)
def test_an_optimizer_whose_step_cannot_be_run_here_is_refused_in_one_line(
    name: str, said: str, advised: str
) -> None:
    with pytest.raises(UsageError) as refused:
        own(name, nn.Sequential(nn.Conv2d(3, 4, 1)))

    assert str(refused.value).startswith(f"--optimizer-from {__name__}:{name}: ")
    assert said in str(refused.value)
    assert advised in (refused.value.hint or "")
    assert "\n" not in str(refused.value)


def test_an_out_of_memory_error_of_the_callable_is_not_changed() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        own("no_memory", nn.Linear(2, 2))


def test_sparse_adam_is_accepted_where_all_gradients_are_sparse() -> None:
    assert type(own("sparse", nn.Embedding(4, 2, sparse=True))) is torch.optim.SparseAdam


def test_a_step_that_takes_any_arguments_needs_no_closure() -> None:
    assert type(own("any_arguments", nn.Linear(2, 2))) is AnyArguments
